package endpoint

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// maxExt4Entries bounds the names of a folder.
const maxExt4Entries = 1 << 22

// maxExt4Link is the longest target of a link, in bytes.
const maxExt4Link = 4096

// eachName hands on the names of a folder. Folders with an index are read as the
// lists that they are as well.
func (e *ext4) eachName(ctx context.Context, charge func(context.Context) error, i *ext4Inode, each func(name string, inode int64) error) error {
	if i.fileMode()&fs.ModeDir == 0 {
		return fs.ErrInvalid
	}
	if i.flags&ext4FlagInline != 0 {
		parts := i.inline()
		if err := e.names(parts[0][4:], each); err != nil { // behind the parent's number
			return err
		}
		return e.names(parts[1], each)
	}
	content, err := e.content(&ext4Inode{raw: i.raw, number: i.number, flags: i.flags &^ ext4FlagCrypt, size: i.size}, nil)
	if err != nil {
		return err
	}
	block := make([]byte, e.blockSize)
	for total := int64(0); ; total++ {
		if err := charge(ctx); err != nil {
			return err
		}
		if _, err := io.ReadFull(content, block); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil
			}
			return err
		}
		if total > maxExt4Entries/16 {
			return fmt.Errorf("%w: a folder of more than %d blocks", errExt4Damage, total)
		}
		if err := e.names(block, each); err != nil {
			return err
		}
	}
}

// names hands on the entries of a block.
func (e *ext4) names(block []byte, each func(name string, inode int64) error) error {
	for len(block) >= 8 {
		inode := int64(binary.LittleEndian.Uint32(block))
		size, name := int(binary.LittleEndian.Uint16(block[4:])), int(block[6])
		if e.features&ext4FeatureFileType == 0 {
			name = int(binary.LittleEndian.Uint16(block[6:]))
		}
		if size == 0 || size == 0xffff { // the whole of a block of 64 KiB
			size = len(block)
		}
		if size < 8 || size > len(block) || name > size-8 {
			return fmt.Errorf("%w: an entry of a folder", errExt4Damage)
		}
		text := string(block[8 : 8+name])
		block = block[size:]
		if inode == 0 || text == "" || text == "." || text == ".." {
			continue
		}
		if err := each(text, inode); err != nil {
			return err
		}
	}
	return nil
}

// find follows names from the root; links are not followed.
func (e *ext4) find(ctx context.Context, charge func(context.Context) error, components []string) (*ext4Inode, error) {
	i, err := e.inode(ext4Root)
	for _, c := range components {
		if err != nil {
			return nil, err
		}
		found := int64(0)
		err = e.eachName(ctx, charge, i, func(name string, inode int64) error {
			if name == c {
				found = inode
				return errFound
			}
			return nil
		})
		switch {
		case errors.Is(err, fs.ErrInvalid) || err == nil && found == 0:
			return nil, fs.ErrNotExist
		case err != nil && !errors.Is(err, errFound):
			return nil, err
		}
		i, err = e.inode(found)
	}
	return i, err
}

// errFound ends a search.
var errFound = errors.New("found")

// link reads a link's target.
func (e *ext4) link(i *ext4Inode) (string, error) {
	if i.size > maxExt4Link {
		return "", fmt.Errorf("%w: a link of %d bytes", errExt4Damage, i.size)
	}
	if i.size < ext4BlockArea && i.flags&(ext4FlagExtents|ext4FlagInline) == 0 {
		return string(i.raw[40 : 40+i.size]), nil
	}
	content, err := e.content(i, nil)
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(io.LimitReader(content, maxExt4Link))
	return string(data), err
}
