package endpoint

import (
	"testing"
)

// The forms of /proc are facts of the kernel; what processes put into them is not.

func TestParseProcStatBearsHostileNames(t *testing.T) {
	line := "42 (a) R (b\n) S 7 42 42 0 -1 4194304 1 2 3 4 150 50 6 7 20 0 3 0 12345 1000000 250 18446744073709551615\n"
	s, err := parseProcStat([]byte(line))
	if err != nil || s.comm != "a) R (b\n" || s.ppid != 7 || s.utime != 150 || s.stime != 50 || s.start != 12345 || s.rss != 250 {
		t.Errorf("got %+v, %v", s, err)
	}
	for _, bad := range []string{"", "1", "1 (x", "1 (x) S 1", ") ("} {
		if _, err := parseProcStat([]byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestParseSocket(t *testing.T) {
	for _, c := range []struct{ line, protocol, local, remote, status string }{
		{"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 1", "tcp", "127.0.0.1:8080", "0.0.0.0:0", "LISTEN"},
		{"   1: 00000000000000000000000001000000:0016 B80D0120000000000000000001000000:C000 01 0:0 0:0 0 0 0 99 1", "tcp6", "[::1]:22", "[2001:db8::1]:49152", "ESTAB"},
		{"   2: 00000000:0044 00000000:0000 07 0:0 0:0 0 0 0 99 1", "udp", "0.0.0.0:68", "0.0.0.0:0", ""},
	} {
		s, ok := parseSocket(c.line, c.protocol)
		if !ok || s.local.String() != c.local || s.remote.String() != c.remote || s.status() != c.status {
			t.Errorf("%s: %+v %s", c.line, s, s.status())
		}
	}
	if _, ok := parseSocket("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode", "tcp"); ok {
		t.Error("the heading was taken for a socket")
	}
}

func TestParseMountsUnescapes(t *testing.T) {
	got := parseMounts([]byte(`/dev/sd\040a /mnt/a\011b\134 ext4 rw,noatime 0 0` + "\nbroken\n"))
	if len(got) != 1 || got[0].device != "/dev/sd a" || got[0].point != "/mnt/a\tb\\" || got[0].kind != "ext4" {
		t.Errorf("got %q", got)
	}
	if kind := parseMountType([]byte("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw\n"), 98, 0, 0); kind != "ext3" {
		t.Errorf("type %q", kind)
	}
	// The files of a btrfs subvolume have a device that is not in the table.
	table := []byte("36 35 98:0 / /a rw - ext3 /dev/a rw\n40 35 0:50 /@ /b rw - btrfs /dev/b rw\n")
	if kind := parseMountType(table, 0, 61, 40); kind != "btrfs" {
		t.Errorf("type %q", kind)
	}
	if kind := parseMountType(table, 0, 61, 0); kind != "" {
		t.Errorf("type %q", kind)
	}
}

func FuzzProc(f *testing.F) {
	f.Add([]byte("42 (a) S 7 42 42 0 -1 4194304 1 2 3 4 150 50 6 7 20 0 3 0 12345 1000000 250 1\n"))
	f.Add([]byte("7f00-7f10 r-xp 00000000 08:01 1 /usr/bin/x y\n0: 0100007F:1F90 00000000:0000 0A 0 0 0 0 0 0 1\n"))
	f.Fuzz(func(_ *testing.T, data []byte) {
		_, _ = parseProcStat(data)
		parseMaps(data)
		parseMounts(data)
		parseSocket(string(data), "tcp6")
		statusNumbers(data, "Uid:")
		parseMountType(data, 8, 1, 7)
	})
}
