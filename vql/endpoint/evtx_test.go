package endpoint_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/vql"
)

func eventLog(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/evtx/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestParseEvtx(t *testing.T) {
	s := newSession(t, map[string]any{"Log": string(eventLog(t, "capi2.evtx"))})
	s.want(`SELECT * FROM parse_evtx(filename=Log, accessor='data')`,
		`{"System":{"Provider":{"Name":"Microsoft-Windows-CAPI2","Guid":"{5bbca4a8-b209-48dc-a8c7-b23d3e5216fb}"},"EventID":{"Value":70},`+
			`"Version":0,"Level":4,"Task":70,"Opcode":0,"Keywords":4611686018427388032,"TimeCreated":{"SystemTime":1751191789.1541903},`+
			`"EventRecordID":707,"Correlation":{"ActivityID":"0E2A62B5-0688-42DE-9AE1-A2AD54A8CE40"},"Execution":{"ProcessID":23708,"ThreadID":17980},`+
			`"Channel":"Microsoft-Windows-CAPI2/Operational","Computer":"ILDHBZJST3","Security":{"UserID":"S-1-5-21-1332095402-2705258134-1427695613-1001"}},`+
			`"EventData":null,"UserData":{"CryptAcquireCertificatePrivateKey":{"Certificate":{"fileRef":"3AA55F503B946700761B3990B569E6F248C3D31D.cer",`+
			`"subjectName":"5ae3f7e8-6eef-4e9e-8fc9-94f5d0c0862b"},"Flags":{"value":"10040","CRYPT_ACQUIRE_SILENT_FLAG":"true",`+
			`"CRYPT_ACQUIRE_ALLOW_NCRYPT_KEY_FLAG":"true"},"EventAuxInfo":{"ProcessName":"RuntimeBroker.exe"},`+
			`"CorrelationAuxInfo":{"TaskId":"{59A34F27-7A62-4C7D-9DE1-9E1F0E2382D5}","SeqNumber":"2"},"Result":{"value":"0"}}},"Message":""}`)
	if s.log() != "" {
		t.Errorf("an honest log gives log lines:\n%s", s.log())
	}
}

// manyChunks is a log of so many copies of a log's only chunk.
func manyChunks(log []byte, n int) []byte {
	return append(bytes.Clone(log[:4096]), bytes.Repeat(log[4096:4096+64<<10], n)...)
}

func TestParseEvtxWorkersKeepTheOrder(t *testing.T) {
	log := manyChunks(eventLog(t, "Security_1_record.evtx"), 20)
	for n := range 20 {
		binary.LittleEndian.PutUint64(log[4096+n*64<<10+512+8:], uint64(n)) // not the event's own number, which is in its XML
	}
	s := newSession(t, map[string]any{"Log": string(log)})
	one := s.rows(`SELECT * FROM parse_evtx(filename=Log, accessor='data')`)
	many := s.rows(`SELECT * FROM parse_evtx(filename=Log, accessor='data', workers=4)`)
	if len(one) != 20 || strings.Join(one, "\n") != strings.Join(many, "\n") {
		t.Errorf("%d rows with one worker, %d with four\n%s", len(one), len(many), s.log())
	}
}

func TestParseEvtxTellsDamage(t *testing.T) {
	log := manyChunks(eventLog(t, "capi2.evtx"), 3)
	copy(log[4096:], "garbage!")                                   // the first chunk's magic
	copy(log[4096+64<<10+512+24:], bytes.Repeat([]byte{0xee}, 40)) // the second chunk's only record
	cut := log[:len(log)-30<<10]                                   // the third ends in its free space
	s := newSession(t, map[string]any{"Log": string(cut), "Short": string(log[:100]), "Root": t.TempDir()})
	s.want(`SELECT System.EventRecordID AS ID FROM parse_evtx(filename=Log, accessor='data')`, `{"ID":707}`)
	s.wantLog("what lies at 4096 is no chunk")
	s.wantLog("chunk at 69632: 1 places are damaged, the first: record ")
	s.want(`SELECT * FROM parse_evtx(filename=Short, accessor='data')`)
	s.wantLog("not a Windows event log")
	s.want(`SELECT * FROM parse_evtx(filename=Root + '/none')`)
	s.wantLog("no such file")
}

func TestParseEvtxFindsMessages(t *testing.T) {
	db := makeDatabase(t, `CREATE TABLE providers (id INTEGER, name TEXT); CREATE TABLE messages (provider_id INTEGER, event_id INTEGER, message TEXT);
		INSERT INTO providers VALUES (1, 'Other'), (2, 'Microsoft-Windows-CAPI2'); INSERT INTO messages VALUES (1, 70, 'no'), (2, 71, 'no'), (2, 70, 'A key.')`)
	s := newSession(t, map[string]any{"Log": string(eventLog(t, "capi2.evtx")), "DB": db})
	s.want(`SELECT Message FROM parse_evtx(filename=Log, accessor='data', messagedb=DB)`, `{"Message":"A key."}`)
	s.want(`SELECT Message FROM parse_evtx(filename=Log, accessor='data', messagedb=DB + 'x')`, `{"Message":""}`)
	s.wantLog("events come without messages")
}

// As the service writes: a further chunk, then the log is cleared and begins anew.
func TestWatchEvtxGivesNewEvents(t *testing.T) {
	log := manyChunks(eventLog(t, "capi2.evtx"), 3)
	for n := range 3 { // as records 707, 708 and 709
		chunk := log[4096+n*64<<10:]
		for _, at := range []int{24, 32, 512 + 8} {
			binary.LittleEndian.PutUint64(chunk[at:], uint64(707+n))
		}
	}
	synctest.Test(t, func(t *testing.T) {
		name := filepath.Join(t.TempDir(), "log.evtx")
		write := func(data []byte) {
			if err := os.WriteFile(name, data, 0o600); err != nil {
				t.Error(err)
			}
		}
		write(log[:4096+64<<10])
		s := newSession(t, map[string]any{"Log": name, "EVTX_FREQUENCY": int64(60)})
		begin := time.Now()
		go func() {
			synctest.Wait() // the end has been found
			write(log)
		}()
		n := 0
		err := s.each(t.Context(), `SELECT System.EventID.Value AS ID FROM watch_evtx(filename=Log) LIMIT 3`, func(*vql.Dict) error {
			if n++; n == 2 {
				write(log[:4096+64<<10])
			}
			return nil
		})
		if n != 3 || err != nil {
			t.Errorf("%d events, %v\n%s", n, err, s.log())
		}
		if took := time.Since(begin); took != 2*time.Minute { // of the bubble: two looks further on
			t.Errorf("EVTX_FREQUENCY does not count: it took %s", took)
		}
	})
}

func FuzzEvtx(f *testing.F) {
	for _, name := range []string{"Security_1_record.evtx", "capi2.evtx"} {
		log := eventLog(f, name)
		f.Add(log[4096+512:4096+512+3000], uint16(0), byte(0))
		f.Add(log[4096+512:4096+512+3000], uint16(70), byte(0x21))
		f.Add(log[4096+512:4096+512+3000], uint16(40), byte(0x0c))
	}
	head := eventLog(f, "capi2.evtx")[:4096+512]
	f.Fuzz(func(t *testing.T, records []byte, at uint16, b byte) {
		log := append(bytes.Clone(head), records...)
		if i := len(head) + int(at); i < len(log) {
			log[i] = b
		}
		s := newSession(t, map[string]any{"Log": string(log)})
		s.rows(`SELECT * FROM parse_evtx(filename=Log, accessor='data')`)
		if strings.Contains(strings.ToLower(s.log()), "panic") {
			t.Error(s.log())
		}
	})
}
