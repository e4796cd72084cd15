// Package licences keeps the binary free of modules whose licence we may not ship.
package licences

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// allowed recognises licences by a sentence that stands in each copy of them.
// The first that fits counts; nothing fits a licence that is not listed.
var allowed = []struct {
	name string
	text *regexp.Regexp
}{
	{"Apache-2.0", words(`Apache License,? Version 2\.0`)},
	{"MPL-2.0", words(`Mozilla Public License,? (?:v(?:ersion)?[. ]*)?2\.0`)},
	{"Unlicense", words(`This is free and unencumbered software released into the public domain`)},
	{"ISC", words(`Permission to use, copy, modify, and(?:/or)? distribute this software for any purpose with or without fee is hereby granted`)},
	{"Zlib", words(`provided 'as-is', without any express or implied warranty`)},
	{"BSD", words(`Redistribution and use in source and binary forms, with or without modification, are permitted`)},
	{"MIT", words(`Permission is hereby granted, free of charge, to any person obtaining a copy`)},
}

// forbidden wins over allowed: texts that name several licences are for people.
var forbidden = words(`GNU (?:Affero |Lesser |Library )?General Public License|Server Side Public License|Business Source License|Commons Clause`)

// words matches a sentence whatever its line breaks are.
func words(pattern string) *regexp.Regexp {
	return regexp.MustCompile(`(?is)` + strings.ReplaceAll(pattern, " ", `[\s*#/]+`))
}

func TestEveryModuleOfTheBinaryMayBeShipped(t *testing.T) {
	modules := modulesOf(t, "raptorpack/cmd/raptorpack")
	if len(modules) < 20 {
		t.Fatalf("only %d modules found: the test looks at the wrong thing", len(modules))
	}
	for path, dir := range modules {
		name, err := licenceOf(dir)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		t.Logf("%-10s %s", name, path)
	}
}

func TestALicenceThatIsNotListedIsNamed(t *testing.T) {
	for text, want := range map[string]string{
		"Permission is hereby granted, free of\ncharge, to any person obtaining a copy":                                       "MIT",
		"Apache License\n  Version 2.0, January 2004":                                                                         "Apache-2.0",
		"GNU AFFERO GENERAL PUBLIC\nLICENSE Version 3":                                                                        "",
		"MIT: Permission is hereby granted, free of charge, to any person obtaining a copy. Dual: GNU General Public License": "",
		"All rights reserved.": "",
	} {
		if got := recognise(text); got != want {
			t.Errorf("recognised %q as %q, want %q", text, got, want)
		}
	}
}

// modulesOf lists the folders of the modules that a program is built from, on
// every platform that we ship.
func modulesOf(t *testing.T, program string) map[string]string {
	t.Helper()
	modules := map[string]string{}
	for _, platform := range []string{"linux/amd64", "linux/arm64", "windows/amd64", "darwin/arm64"} {
		system, machine, _ := strings.Cut(platform, "/")
		list := exec.Command("go", "list", "-deps", "-json=Module", program)
		list.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+system, "GOARCH="+machine)
		out, err := list.Output()
		if err != nil {
			t.Fatalf("list what %s is built from on %s: %v", program, platform, err)
		}
		for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
			var pkg struct {
				Module *struct {
					Path, Dir string
					Main      bool
				}
			}
			if err := decoder.Decode(&pkg); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("decode package list: %v", err)
			}
			if pkg.Module != nil && !pkg.Module.Main {
				modules[pkg.Module.Path] = pkg.Module.Dir
			}
		}
	}
	return modules
}

// licenceOf reads the licence files at a module's root; one that we know is enough,
// one that we must not ship is too much.
func licenceOf(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	var seen []string
	for _, entry := range entries {
		stem := strings.ToUpper(entry.Name())
		if entry.IsDir() || !strings.HasPrefix(stem, "LICEN") && !strings.HasPrefix(stem, "COPYING") && !strings.HasPrefix(stem, "UNLICENSE") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			return "", err
		}
		if name := recognise(string(text)); name != "" {
			return name, nil
		}
		seen = append(seen, entry.Name())
	}
	if seen == nil {
		return "", errors.New("no licence file")
	}
	return "", errors.New("not on the list: " + strings.Join(seen, ", "))
}

func recognise(text string) string {
	mozilla := allowed[1].text.MatchString(text) // names the GNU licences as secondary ones
	if forbidden.MatchString(text) && !mozilla {
		return ""
	}
	for _, licence := range allowed {
		if licence.text.MatchString(text) {
			return licence.name
		}
	}
	return ""
}

// What is compiled from works of others and lies in the tree as a module of
// WebAssembly has their terms beside it.
func TestEmbeddedModulesHaveTheirTerms(t *testing.T) {
	modules, err := filepath.Glob("../../*/*/*.wasm")
	if err != nil || len(modules) == 0 {
		t.Fatalf("no modules found (%v): the test looks at the wrong place", err)
	}
	for _, module := range modules {
		text, err := os.ReadFile(filepath.Join(filepath.Dir(module), "LICENSE.third-party"))
		if err != nil {
			t.Error(err)
			continue
		}
		if recognise(string(text)) == "" {
			t.Errorf("the terms of %s are not on the list", module)
		}
	}
}
