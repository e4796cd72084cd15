package endpoint_test

import (
	"strings"
	"testing"

	"raptorpack/vql"
	"raptorpack/vql/endpoint"
)

func TestPrimitivesKnownByNameAnswerClearly(t *testing.T) {
	s := newSession(t, nil)
	s.want(`SELECT * FROM wmi(query='SELECT 1')`)
	s.wantLog("wmi: not available on ")
	s.want(`SELECT parse_pe(file='/bin/ls') AS X FROM scope()`, `{"X":null}`)
	s.wantLog("parse_pe: not available on ")
	s.want(`SELECT version(plugin='wmi') AS P, version(function='parse_pe') AS F FROM scope()`, `{"P":null,"F":null}`)
}

// The names of the section "Compile-only primitives" of the contract.
func TestPrimitivesOfOtherPlatformsAreKnown(t *testing.T) {
	engine, err := vql.NewEngine(endpoint.Functions(), endpoint.Plugins())
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.FieldsSeq(`authenticode crypto_rc4 describe_address encode entropy environ eval gunzip lookupSID lru
		parse_ntfs parse_pe parse_pkcs7 parse_x509 pe_dump plist reg_rm_key reg_rm_value reg_set_value relpath rot13
		sigma_log_sources srum_lookup_id starl tlsh_hash token winpmem xattr
		link_to process_tracker shell_session shell_session_control`) {
		if _, ok := engine.Function(name); !ok {
			t.Errorf("function %s is not known", name)
		}
	}
	for name := range strings.FieldsSeq(`batch carve_usn certificates environ handles modules olevba parse_ese parse_mft
		parse_ntfs_i30 parse_pst parse_recyclebin parse_usn plist proc_dump read_reg_key sigma threads vad watch_etw
		watch_evtx watch_usn winobj wmi wmi_events yarax
		deb_create rpm_create logging process_tracker_updates write_crypto_file`) {
		if _, ok := engine.Plugin(name); !ok {
			t.Errorf("plugin %s is not known", name)
		}
	}
}

func TestAccessorsKnownByNameAnswerClearly(t *testing.T) {
	s := newSession(t, nil)
	s.want(`SELECT OSPath FROM glob(globs='HKEY_LOCAL_MACHINE/*', accessor='registry')`)
	s.want(`SELECT read_file(filename='C:\\x', accessor='ntfs') AS X FROM scope()`, `{"X":""}`)
	s.wantLog("accessor ntfs: not supported on this platform")
	s.wantLog("accessor registry: not supported on this platform")
}
