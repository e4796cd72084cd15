package endpoint

import (
	"context"
	"database/sql"
	"errors"
	"reflect"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

var errNoHandle = errors.New("the driver's connection has no handle that we know")

// interrupting ends a statement of conn when ctx does. The driver does so only up
// to the first row; a statement that looks for its next one would run on. end must
// be called before conn is closed: it waits for the goroutine that uses its handle.
//
// The handle is a field of the pinned driver that is not exported;
// TestSQLiteEndsWithItsQuery fails when that moves.
func interrupting(ctx context.Context, conn *sql.Conn) (end func(), err error) {
	var handle uintptr
	err = conn.Raw(func(driver any) error {
		field := reflect.Indirect(reflect.ValueOf(driver)).FieldByName("db")
		if field.Kind() != reflect.Uintptr || field.Uint() == 0 {
			return errNoHandle
		}
		handle = uintptr(field.Uint())
		return nil
	})
	if err != nil {
		return nil, err
	}
	stop, ended := make(chan struct{}), make(chan struct{}) // closed only, never sent to
	go func() {
		defer close(ended)
		select {
		case <-stop:
		case <-ctx.Done():
			tls := libc.NewTLS()
			defer tls.Close()
			sqlite3.Xsqlite3_interrupt(tls, handle)
		}
	}()
	return func() {
		close(stop)
		<-ended
	}, nil
}
