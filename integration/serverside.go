package integration

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"strconv"
)

// Get reads an answer of this node's JSON door.
func (n *Node) Get(path string, into any) error {
	answer, err := n.pack.http.Get(n.url(path))
	if err != nil {
		return err
	}
	return decode(answer, into)
}

// UploadTool makes a text the file of a tool, through this node.
func (n *Node) UploadTool(name, filename, text string) error {
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile("file", filename)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(part, text); err != nil {
		return err
	}
	if err := form.Close(); err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(context.Background(), http.MethodPut, n.url("/tools/"+name+"/file"), &body)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", form.FormDataContentType())
	answer, err := n.pack.http.Do(request)
	if err != nil {
		return err
	}
	return decode(answer, nil)
}

// ClientURL is what agents call this node.
func (n *Node) ClientURL() string {
	return "https://localhost:" + strconv.Itoa(n.file.Frontend.BindPort) + "/"
}

// ReadClientURL fetches what anybody may have of a node, as an agent would.
func (p *Pack) ReadClientURL(url string) (string, error) {
	answer, err := p.http.Get(url)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", answer.StatusCode, text)
	}
	return string(text), err
}

// CollectOnServer starts a collection on the server itself, through this node, and
// returns its flow id. The same key starts it once.
func (n *Node) CollectOnServer(key, artifact string, parameters map[string]string) (string, error) {
	var started struct {
		Flow string `json:"flow_id"`
	}
	err := n.Post("/clients/server/flows", key, map[string]any{
		"artifacts": []map[string]any{{"name": artifact, "parameters": parameters}}, "urgent": true,
	}, &started)
	return started.Flow, err
}

// ServerFlow is how a collection on the server stands, as this node knows it.
func (n *Node) ServerFlow(flow string) (Flow, error) {
	var f Flow
	err := n.Get("/clients/server/flows/"+flow, &f)
	return f, err
}
