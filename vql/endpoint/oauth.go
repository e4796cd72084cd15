package endpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

var errToken = errors.New("the answer holds no token")

// bearerToken is a token until shortly before it ends.
type bearerToken struct {
	text  string
	asked time.Time
	ends  time.Time
}

// token asks an OAuth 2.0 token endpoint (RFC 6749) once.
func (o *outbound) token(ctx context.Context, address string, form url.Values) (*bearerToken, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	asked := time.Now()
	r, err := o.do(request)
	if err != nil {
		return nil, err
	}
	if err := r.statusErr(); err != nil {
		return nil, err
	}
	var answer struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int64  `json:"expires_in"`
	}
	if err := json.Unmarshal(r.body, &answer); err != nil {
		return nil, fmt.Errorf("%w: %w", errToken, err)
	}
	if answer.AccessToken == "" {
		return nil, errToken
	}
	life := secondsOf(orDefault(answer.ExpiresIn, 3600))
	return &bearerToken{text: answer.AccessToken, asked: asked, ends: asked.Add(life - life/10)}, nil
}
