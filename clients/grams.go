package clients

import (
	"math/bits"
	"slices"
	"strings"
)

// grams tells which texts of a segment have three characters in a row. It is made
// whole and never changed.
type grams struct {
	codes []uint32 // ascending
	lists []gramList
	few   []uint16 // members of short lists, one list behind the other, each ascending
	many  []words  // long lists
}

// gramList is where the members of a gram are: in few, or in many if n is more
// than mostFew.
type gramList struct {
	at uint32
	n  uint16
}

// A character is one of 64 classes in a gram. Those that names are made of have a
// class of their own; others share one, so that a text must be looked at.
const (
	classBits = 6
	gramCodes = 1 << (3 * classBits)
	inNames   = "abcdefghijklmnopqrstuvwxyz0123456789-._ $@"
)

var classes, alone = func() (class [256]byte, alone [256]bool) {
	for c := range 256 {
		class[c] = byte(len(inNames) + c%(1<<classBits-len(inNames)))
		if i := strings.IndexByte(inNames, byte(c)); i >= 0 {
			class[c], alone[c] = byte(i), true
		}
	}
	return class, alone
}()

func gramCode(a, b, c byte) uint32 {
	return uint32(classes[a])<<(2*classBits) | uint32(classes[b])<<classBits | uint32(classes[c])
}

// narrow takes those out of w whose texts do not have all grams of a word. It
// reports whether the rest is sure to have the word, so that no text needs to be
// looked at. Of words with one or two characters it knows only where they are
// part of a gram: texts without any are taken out.
func (g *grams) narrow(word []byte, w *words) (sure bool) {
	if len(word) < 3 {
		g.narrowShort(word, w)
		return allAlone(word)
	}
	var scratch [32]gramList
	lists := scratch[:0]
	for i := 2; i < len(word) && len(lists) < cap(lists); i++ {
		at, found := slices.BinarySearch(g.codes, gramCode(word[i-2], word[i-1], word[i]))
		if !found {
			*w = words{}
			return true
		}
		lists = append(lists, g.lists[at])
	}
	slices.SortFunc(lists, func(a, b gramList) int { return int(a.n) - int(b.n) })
	for i, list := range lists {
		if i > 0 && lists[0].n < mostFew/16 {
			break // few enough: to look at them costs less
		}
		g.keep(list, w)
	}
	return len(word) == 3 && allAlone(word)
}

func allAlone(word []byte) bool {
	for _, c := range word {
		if !alone[c] {
			return false
		}
	}
	return true
}

// narrowShort unites the grams that have the characters anywhere.
func (g *grams) narrowShort(word []byte, w *words) {
	code, mask := uint32(0), uint32(0)
	for _, c := range word {
		code, mask = code<<classBits|uint32(classes[c]), mask<<classBits|(1<<classBits-1)
	}
	var in words
	for i, have := range g.codes {
		for shift := 0; shift <= (3-len(word))*classBits; shift += classBits {
			if have>>shift&mask == code {
				g.addTo(g.lists[i], &in)
				break
			}
		}
	}
	w.and(&in)
}

// keep takes those out of w who are not in a list.
func (g *grams) keep(list gramList, w *words) {
	if list.n > mostFew {
		w.and(&g.many[list.at])
		return
	}
	var in words
	g.addTo(list, &in)
	w.and(&in)
}

// addTo adds the members of a list to w.
func (g *grams) addTo(list gramList, w *words) {
	if list.n > mostFew {
		w.or(&g.many[list.at])
		return
	}
	for _, i := range g.few[list.at : list.at+uint32(list.n)] {
		w.add(int(i))
	}
}

// gramMaker makes grams, one after the other. It takes 2 MiB and is made anew for
// each merge.
type gramMaker struct {
	n    [gramCodes]uint32      // members of a gram; then where the next one goes
	last [gramCodes]uint32      // the newest text that has the gram, to count it once
	met  [gramCodes / 64]uint64 // bits of codes that some text has
	text uint32                 // number of the text, over all walks
}

// inMany marks a place in grams.many.
const inMany = 1 << 31

// make takes the texts of a segment one behind the other, and where each ends.
func (m *gramMaker) make(texts []byte, ends []int) *grams {
	m.walk(texts, ends, func(code uint32, _ int) {
		m.n[code]++
		m.met[code/64] |= 1 << (code % 64)
	})
	g := m.layOut()
	m.walk(texts, ends, func(code uint32, i int) {
		if at := m.n[code]; at&inMany != 0 {
			g.many[at&^inMany].add(i)
		} else {
			g.few[at] = uint16(i)
			m.n[code]++
		}
	})
	for _, code := range g.codes {
		m.n[code] = 0
	}
	m.met = [gramCodes / 64]uint64{}
	return g
}

// walk yields each gram of each text once, and the number of the text.
func (m *gramMaker) walk(texts []byte, ends []int, yield func(code uint32, i int)) {
	begin := 0
	for i, end := range ends {
		m.text++
		for text := texts[begin:end]; len(text) > 2; text = text[1:] {
			code := gramCode(text[0], text[1], text[2])
			if m.last[code] != m.text {
				m.last[code] = m.text
				yield(code, i)
			}
		}
		begin = end
	}
}

// layOut gives each gram its place and notes it in m.n.
func (m *gramMaker) layOut() *grams {
	g := &grams{}
	few, many := uint32(0), uint32(0)
	for i, word := range m.met {
		for ; word != 0; word &= word - 1 {
			code := uint32(i*64 + bits.TrailingZeros64(word))
			list := gramList{few, uint16(m.n[code])}
			if list.n > mostFew {
				list.at = many
				m.n[code] = many | inMany
				many++
			} else {
				m.n[code] = few
				few += uint32(list.n)
			}
			g.codes, g.lists = append(g.codes, code), append(g.lists, list)
		}
	}
	g.codes, g.lists = slices.Clip(g.codes), slices.Clip(g.lists)
	g.few, g.many = make([]uint16, few), make([]words, many)
	return g
}
