package filestore

// Process is who a store's heartbeats say it is.
type Process = process

// SetProcess makes a store speak for another process than the test's.
func (s *Store) SetProcess(change func(*Process)) { change(&s.self) }

// Pretend changes what a Process says of itself.
func (p *process) Pretend(boot string, pidNS uint64, pid int, start uint64) {
	p.boot, p.pidNS, p.pid, p.start = boot, pidNS, pid, start
}

// PIDStart returns what the store says of itself.
func (s *Store) PIDStart() uint64 { return s.self.start }

// MountVerdict judges the mount of a path by a table of mounts.
func MountVerdict(mountinfo, path string) error {
	m, ok := mountOf([]byte(mountinfo), path)
	if !ok {
		return nil
	}
	return m.fit()
}

// LookAtDisk is one round of Run.
var LookAtDisk = (*Store).lookAtDisk

// ExtendNow is the last step of a renewal that began just now.
func ExtendNow(i *Incarnation) bool { return i.claim.extend(now()) }

// Waiting is how many bytes of commits no round has answered.
func (c *Committer) Waiting() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queued
}

// ParseEndName reads the name of an ending.
var ParseEndName = parseEndName

// ParseEnding reads an ending.
func ParseEnding(data []byte) error {
	_, err := parseEnding(data)
	return err
}

// ParsePlace reads a place and writes it again.
func ParsePlace(text string) (string, error) {
	days, err := parsePlace(text)
	if err != nil {
		return "", err
	}
	t := Tail{days: days}
	return t.place(), nil
}
