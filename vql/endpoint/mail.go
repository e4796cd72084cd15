package endpoint

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"strings"
	"sync"
	"time"

	gomail "github.com/wneessen/go-mail"
	"raptorpack/vql"
)

// errMailPeriod means that a mail was sent too short a time ago.
var errMailPeriod = errors.New("another mail was sent within the period")

// MailSettings is a service by which the host gives what calls of mail leave out.
type MailSettings struct {
	From, Server       string
	Port               int
	Username, Password string
	SkipVerify         bool
	RootCA             string
}

type mailArgs struct {
	To           []string  `vql:"to,required" doc:"Who gets it."`
	From         string    `vql:"from" doc:"Who it is from."`
	CC           []string  `vql:"cc" doc:"Who gets a copy."`
	Subject      string    `vql:"subject" doc:"The subject."`
	Body         string    `vql:"body,required" doc:"The text."`
	Period       int64     `vql:"period" doc:"Seconds within which only one mail is sent (60)."`
	ServerPort   int64     `vql:"server_port" doc:"The server's port (587)."`
	Server       string    `vql:"server" doc:"The SMTP server."`
	AuthUsername string    `vql:"auth_username" doc:"The user to sign in as."`
	AuthPassword string    `vql:"auth_password" doc:"The user's password."`
	SkipVerify   bool      `vql:"skip_verify" doc:"Accept any certificate."`
	RootCA       string    `vql:"root_ca" doc:"Certificates in PEM to trust."`
	Secret       string    `vql:"secret" doc:"A named secret; this build has none."`
	Headers      *vql.Dict `vql:"headers" doc:"Further headers."`
}

var mailPlugin = vql.NewPlugin(vql.Spec{
	Name: "mail", Permission: "NETWORK", Doc: "Sends a mail and gives what became of it as a row.", Columns: []string{"To", "CC", "Subject", "Body", "Period", "ErrorStatus"},
}, func(ctx context.Context, scope *vql.Scope, args *mailArgs, emit vql.Emit) error {
	return emit(sendMail(ctx, scope, args))
})

var mailFunction = vql.NewFunction(vql.Spec{
	Name: "mail", Permission: "NETWORK", Doc: "Sends a mail and gives what became of it.",
}, func(ctx context.Context, scope *vql.Scope, args *mailArgs) (vql.Value, error) {
	return sendMail(ctx, scope, args), nil
})

func sendMail(ctx context.Context, scope *vql.Scope, args *mailArgs) *vql.Dict {
	err := deliver(ctx, scope, args)
	status := ""
	if err != nil {
		status = err.Error()
		scope.Log(vql.LevelDefault, "mail: %v", err)
	}
	row := vql.NewDict()
	row.Set("To", args.To)
	row.Set("CC", args.CC)
	row.Set("Subject", args.Subject)
	row.Set("Body", args.Body)
	row.Set("Period", args.Period)
	row.Set("ErrorStatus", status)
	return row
}

// lastMail holds when this process sent its last mail: a query that goes wrong in a
// loop must not flood people, whichever session it runs in.
var lastMail struct {
	sync.Mutex
	at time.Time
}

func mailAllowed(period time.Duration) bool {
	lastMail.Lock()
	defer lastMail.Unlock()
	if !lastMail.at.IsZero() && time.Since(lastMail.at) < period {
		return false
	}
	lastMail.at = time.Now()
	return true
}

func deliver(ctx context.Context, scope *vql.Scope, args *mailArgs) error {
	if args.Secret != "" {
		return errors.New("secrets are not available here")
	}
	fillMail(scope, args)
	if args.Server == "" || args.From == "" {
		return errors.New("server and from are needed, as arguments or in the configuration")
	}
	message, err := newMail(ctx, scope, args)
	if err != nil {
		return err
	}
	config, err := tlsConfig(args.SkipVerify, args.RootCA, nil)
	if err != nil {
		return err
	}
	config.ServerName = args.Server
	options := []gomail.Option{
		gomail.WithPort(int(args.ServerPort)), gomail.WithTimeout(30 * time.Second),
		gomail.WithTLSConfig(config), gomail.WithTLSPolicy(gomail.TLSOpportunistic),
	}
	if args.AuthUsername != "" {
		options = append(options, gomail.WithSMTPAuth(gomail.SMTPAuthPlain),
			gomail.WithUsername(args.AuthUsername), gomail.WithPassword(args.AuthPassword),
			gomail.WithTLSPolicy(gomail.TLSMandatory)) // a password never goes in the clear
	}
	client, err := gomail.NewClient(args.Server, options...)
	if err != nil {
		return err
	}
	period := time.Duration(args.Period) * time.Second
	if args.Period == 0 {
		period = time.Minute
	}
	if !mailAllowed(period) {
		return errMailPeriod
	}
	return client.DialAndSendWithContext(ctx, message)
}

func fillMail(scope *vql.Scope, args *mailArgs) {
	s, ok := vql.Service[*MailSettings](scope)
	if !ok || args.Server != "" {
		s = &MailSettings{}
	}
	if args.Server == "" {
		args.Server, args.ServerPort = s.Server, int64(s.Port)
		args.AuthUsername, args.AuthPassword = s.Username, s.Password
		args.SkipVerify, args.RootCA = s.SkipVerify, s.RootCA
	}
	if args.From == "" {
		args.From = s.From
	}
	if args.From == "" {
		args.From = args.AuthUsername
	}
	if args.ServerPort <= 0 || args.ServerPort > 65535 {
		args.ServerPort = 587
	}
}

func newMail(ctx context.Context, scope *vql.Scope, args *mailArgs) (*gomail.Msg, error) {
	m := gomail.NewMsg()
	err := errors.Join(m.From(args.From), m.To(args.To...))
	if len(args.CC) > 0 {
		err = errors.Join(err, m.Cc(args.CC...))
	}
	if err != nil {
		return nil, fmt.Errorf("address: %w", err)
	}
	m.Subject(args.Subject)
	kind := gomail.TypeTextPlain
	if args.Headers != nil {
		for _, key := range args.Headers.Keys() {
			v, _ := args.Headers.Get(key)
			if strings.EqualFold(key, "Content-Type") {
				if kind, err = textType(scope.String(ctx, v)); err != nil {
					return nil, err
				}
				continue
			}
			m.SetGenHeader(gomail.Header(key), scope.String(ctx, v))
		}
	}
	m.SetBodyString(kind, args.Body)
	return m, nil
}

// textType reads the header that says what the body is. It belongs to the body,
// which is encoded on its way: a header of its own would contradict that.
func textType(header string) (gomail.ContentType, error) {
	kind, _, err := mime.ParseMediaType(header)
	switch {
	case err != nil:
		return "", fmt.Errorf("content type %q: %w", header, err)
	case kind == string(gomail.TypeTextPlain), kind == string(gomail.TypeTextHTML):
		return gomail.ContentType(kind), nil
	}
	return "", fmt.Errorf("content type %q: a body is text/plain or text/html", header)
}
