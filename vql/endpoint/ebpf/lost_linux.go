//go:build amd64 || arm64

package ebpf

import "fmt"

// budget bounds the events of our own process. A query writes what it finds, and
// if that raised the events that it watches, it would feed itself. So each second
// of the kernel's time gives ownPerSecond events of ours, and the rest is counted.
type budget struct {
	second  uint64
	used    int
	dropped uint64
}

const ownPerSecond = 100

func (b *budget) allow(sinceBoot uint64) bool {
	if second := sinceBoot / 1e9; second > b.second {
		b.second, b.used = second, 0
	}
	if b.used >= ownPerSecond {
		b.dropped++
		return false
	}
	b.used++
	return true
}

// told is what has been logged already, and what waits to be.
type told struct {
	lost, foreign, own uint64
	damaged, damage    uint64
}

// tell logs what was lost since it was last told: a line when a number has grown.
func (w *Watcher) tell(p *programs) {
	t := &w.told
	if n := p.lost(); n > t.lost {
		w.options.Log(fmt.Sprintf("%d events were lost because they came too fast (%d in all)", n-t.lost, n))
		t.lost = n
	}
	if n := p.count(countForeign); n > 0 && t.foreign == 0 {
		w.options.Log("system calls of 32-bit programs are not looked at")
		t.foreign = n
	}
	if n := w.own.dropped; n > t.own {
		w.options.Log(fmt.Sprintf("%d events of this program itself were left out, beyond %d a second (%d in all)", n-t.own, ownPerSecond, n))
		t.own = n
	}
	if n := t.damaged; n > t.damage {
		w.options.Log(fmt.Sprintf("%d records could not be read", n-t.damage))
		t.damage = n
	}
}
