package filestore_test

import (
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
)

func TestPlainDirectoryIsFit(t *testing.T) {
	s, err := filestore.Open(t.TempDir(), filestore.Options{Logger: quiet})
	check(t, err)
	defer s.Close(t.Context())
	check(t, s.ProbeMount(t.Context()))
	entries, err := s.ReadDirEntries(t.Context(), "lease")
	check(t, err)
	if len(entries) != 0 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestProbeRefusesWhatDoesNotWork(t *testing.T) {
	cases := map[string]filestoretest.Fault{
		"no links":       {Op: filestoretest.Link, Times: filestoretest.Always, Err: syscall.ENOTSUP},
		"no rename":      {Op: filestoretest.Rename, Times: filestoretest.Always, Err: syscall.EXDEV},
		"old content":    {Op: filestoretest.Sync, Skip: 1, Drop: true},
		"slow sync":      {Op: filestoretest.Sync, Delay: 1100 * time.Millisecond},
		"slow listing":   {Op: filestoretest.ReadDir, Delay: 1100 * time.Millisecond},
		"read-only":      {Op: filestoretest.Create, Times: filestoretest.Always, Err: syscall.EROFS},
		"second link ok": {Op: filestoretest.Link, Skip: 1, Err: syscall.ENOTSUP},
	}
	for name, fault := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, faulty := newFaulty(t)
				faulty.Inject(fault)
				wantErr(t, s.ProbeMount(t.Context()), filestore.ErrUnfit)
				time.Sleep(5 * time.Second) // what was abandoned ends
			})
		})
	}
}

func TestMountOptionsDecide(t *testing.T) {
	const table = `22 1 253:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:40 / /mnt/efs rw,relatime shared:9 - nfs4 127.0.0.1:/ rw,vers=4.1,rsize=1048576,namlen=255,hard,noresvport,proto=tcp,timeo=600,retrans=2
31 22 0:41 / /mnt/my\040store rw,relatime - nfs4 srv:/ rw,vers=4.1,soft,proto=tcp
32 22 0:42 / /mnt/nocto rw,relatime - nfs srv:/ rw,vers=3,hard,nocto
33 22 0:43 / /mnt/cached rw,relatime - nfs4 srv:/ rw,hard,acregmin=3,acregmax=600,acdirmin=30,acdirmax=60
34 22 0:44 / /mnt/softerr rw,relatime master:3 shared:2 - nfs4 srv:/ rw,softerr
35 22 0:45 / /mnt/short rw - nfs4 srv:/ rw,hard,acregmax=5,acdirmax=60,noac
36 30 8:1 / /mnt/efs/local rw - ext4 /dev/sdb rw
37 31 0:46 / /mnt/my\040store/inner rw - xfs /dev/sdc rw,soft
`
	cases := map[string]string{ // path: what the refusal names, "" for fit
		"/srv/store": "", "/mnt/efs": "", "/mnt/efs/a/b": "", "/mnt/my store/x": "soft", "/mnt/nocto": "nocto",
		"/mnt/cached/y": "acregmax=600", "/mnt/softerr": "softerr", "/mnt/short": "", "/mnt/efs/local/z": "",
		"/mnt/my store/inner": "", "/mnt/noctoX": "",
	}
	for path, want := range cases {
		err := filestore.MountVerdict(table, path)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
	stacked := table + "40 30 0:50 / /mnt/efs rw - nfs4 srv:/ rw,soft\n"
	if filestore.MountVerdict(stacked, "/mnt/efs") == nil {
		t.Error("the mount on top was not looked at")
	}
}

func FuzzMountVerdict(f *testing.F) {
	f.Add("31 22 0:41 / /mnt/my\\040store rw,relatime - nfs4 srv:/ rw,soft\n", "/mnt")
	f.Add("\\", "\\0")
	f.Fuzz(func(_ *testing.T, table, path string) { _ = filestore.MountVerdict(table, path) })
}
