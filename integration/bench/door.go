package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"raptorpack/config"
)

// door is the operators' JSON door.
type door struct {
	base string
	http *http.Client
}

func newDoor(loaded *config.Loaded, port int) (*door, error) {
	pair, err := loaded.LocalCaller("bench", time.Now())
	if err != nil {
		return nil, err
	}
	certificate, err := tls.X509KeyPair([]byte(pair.Certificate), []byte(pair.PrivateKey))
	if err != nil {
		return nil, err
	}
	// The server is our own child on loopback: nobody to mistake it for.
	trust := &tls.Config{Certificates: []tls.Certificate{certificate}, InsecureSkipVerify: true} //nolint:gosec
	return &door{
		base: fmt.Sprintf("https://127.0.0.1:%d/api/v1", port),
		http: &http.Client{Transport: &http.Transport{TLSClientConfig: trust, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 32}},
	}, nil
}

func (d *door) close() { d.http.CloseIdleConnections() }

func (d *door) call(ctx context.Context, method, path string, body, out any) error {
	_, err := d.ask(ctx, method, path, "", body, out)
	return err
}

// ask is a call that is answered from a state with at least that index, if one is
// given, and returns the index that the answer comes from.
func (d *door) ask(ctx context.Context, method, path, least string, body, out any) (index string, err error) {
	var text []byte
	if body != nil {
		if text, err = json.Marshal(body); err != nil {
			return "", err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, d.base+path, bytes.NewReader(text))
	if err != nil {
		return "", err
	}
	request.Header.Set("Content-Type", "application/json")
	if least != "" {
		request.Header.Set("X-Raptorpack-Index", least)
	}
	response, err := d.http.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	if response.StatusCode >= 300 {
		return "", fmt.Errorf("%s %s: %s: %s", method, path, response.Status, answer)
	}
	index = response.Header.Get("X-Raptorpack-Index")
	if out == nil {
		return index, nil
	}
	return index, json.Unmarshal(answer, out)
}

// artifact stores a custom artifact of one query.
func (d *door) artifact(ctx context.Context, name, query string) error {
	text := fmt.Sprintf("name: %s\nsources:\n  - query: |\n      %s\n", name, query)
	return d.call(ctx, http.MethodPut, "/artifacts", map[string]string{"text": text}, nil)
}

// collect starts a collection.
func (d *door) collect(ctx context.Context, client, artifact string) (string, error) {
	var started struct {
		Flow string `json:"flow_id"`
	}
	err := d.call(ctx, http.MethodPost, "/clients/"+client+"/flows", map[string]any{
		"artifacts": []any{map[string]any{"name": artifact}},
		"limits":    map[string]any{"timeout_seconds": 3600, "max_rows": 10_000_000, "max_upload_bytes": int64(10 << 30)},
	}, &started)
	return started.Flow, err
}

// flow is what the door says of a collection.
type flow struct {
	State  string
	Error  string
	Rows   int64
	Bytes  int64 `json:"upload_bytes"`
	Folder string
}

// ended waits for a collection's end.
func (d *door) ended(ctx context.Context, client, id string) (flow, error) {
	var f flow
	err := until(ctx, 200*time.Millisecond, 10*time.Minute, func() (bool, error) {
		err := d.call(ctx, http.MethodGet, "/clients/"+client+"/flows/"+id, nil, &f)
		return f.State == "completed" || f.State == "errored" || f.State == "incomplete", err
	})
	if err == nil && f.State != "completed" {
		err = fmt.Errorf("flow %s: %s: %s", id, f.State, f.Error)
	}
	return f, err
}

// label sets a label and returns the index that the node stood at when it answered.
func (d *door) label(ctx context.Context, client, label string) (string, error) {
	body := map[string]any{"clients": []string{client}, "add": []string{label}}
	return d.ask(ctx, http.MethodPost, "/clients/labels", "", body, nil)
}

var errNotSeen = errors.New("the label is not there")

// sees asks for a client as of an index, and checks that it has the label.
func (d *door) sees(ctx context.Context, client, label, index string) error {
	var c struct{ Labels []string }
	if _, err := d.ask(ctx, http.MethodGet, "/clients/"+client, index, nil, &c); err != nil {
		return err
	}
	if !slices.Contains(c.Labels, label) {
		return errNotSeen
	}
	return nil
}
