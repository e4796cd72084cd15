package endpoint

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"reflect"
	"strconv"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
	"raptorpack/vql"
)

// maxSQLValue bounds a text or blob that a database can make us hold, in bytes:
// a view of a hostile file may compute one of any length.
const maxSQLValue = 64 << 20

type sqliteArgs struct {
	File     *vql.Path `vql:"file,required" doc:"The database."`
	Accessor string    `vql:"accessor" doc:"The accessor to open it with (auto)."`
	Query    string    `vql:"query,required" doc:"The SQL statement."`
	Args     vql.Value `vql:"args" doc:"What its parameters stand for: a list, or a dict by name."`
}

var sqlitePlugin = vql.NewPlugin(vql.Spec{
	Name: "sqlite",
	Doc: "Queries an SQLite database, which is never written to: one that is in use, needs recovery or is no plain file is copied first. " +
		"Blobs are strings. ATTACH is refused.",
}, func(ctx context.Context, scope *vql.Scope, args *sqliteArgs, emit vql.Emit) error {
	bound := sqlArgs(ctx, scope, args.Args)
	file, err := openDatabase(ctx, scope, args.Accessor, args.File)
	if err != nil {
		return err
	}
	defer file.close(scope)
	err = runSQL(ctx, scope, file.name, args.Query, bound, emit)
	if file.copied || !isBusy(err) {
		return err
	}
	// Somebody holds the lock, as browsers do for as long as they run.
	copied, cerr := copyDatabase(ctx, scope, args.Accessor, args.File)
	if cerr != nil {
		return fmt.Errorf("%w, and copying it: %w", err, cerr)
	}
	defer copied.close(scope)
	return runSQL(ctx, scope, copied.name, args.Query, bound, emit)
})

// isBusy reports whether a database was locked by another process. Nothing has
// been emitted then: the lock is taken before the first row.
func isBusy(err error) bool {
	var failure *sqlite.Error
	if !errors.As(err, &failure) {
		return false
	}
	code := failure.Code() & 0xff
	return code == sqlite3.SQLITE_BUSY || code == sqlite3.SQLITE_LOCKED
}

// sqlArgs are the values to bind: a list by position, a dict by name.
func sqlArgs(ctx context.Context, scope *vql.Scope, given vql.Value) []any {
	if given == nil || vql.IsNull(given) {
		return nil
	}
	if d, ok := given.(*vql.Dict); ok {
		var out []any
		for _, name := range d.Keys() {
			v, _ := d.Get(name)
			out = append(out, sql.Named(name, sqlValue(ctx, scope, v)))
		}
		return out
	}
	list := reflect.ValueOf(given)
	if list.Kind() != reflect.Slice || list.Type().Elem().Kind() == reflect.Uint8 {
		return []any{sqlValue(ctx, scope, given)}
	}
	var out []any
	for i := range list.Len() {
		out = append(out, sqlValue(ctx, scope, list.Index(i).Interface()))
	}
	return out
}

// sqlValue is a value as the driver takes it; what SQL does not know is text.
func sqlValue(ctx context.Context, scope *vql.Scope, v vql.Value) any {
	if vql.IsNull(v) {
		return nil
	}
	r := reflect.ValueOf(v)
	switch {
	case r.CanInt():
		return r.Int()
	case r.CanUint():
		return int64(r.Uint())
	case r.CanFloat():
		return r.Float()
	case r.Kind() == reflect.Bool:
		return r.Bool()
	}
	return scope.String(ctx, v)
}

// runSQL runs a query on a database that is opened for reading alone.
func runSQL(ctx context.Context, scope *vql.Scope, name, query string, args []any, emit vql.Emit) error {
	db, err := sql.Open("sqlite", fileURI(name, "ro"))
	if err != nil {
		return err
	}
	defer closeSQL(scope, db)
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer closeSQL(scope, conn)
	if err := boundSQL(conn); err != nil {
		return err
	}
	end, err := interrupting(ctx, conn)
	if err != nil {
		return err
	}
	defer end()
	rows, err := conn.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer closeSQL(scope, rows)
	return emitSQL(ctx, scope, rows, emit)
}

// boundSQL keeps a statement within its database: nothing attached, which VACUUM
// INTO would need to write a file, and no value without end.
func boundSQL(conn *sql.Conn) error {
	for id, most := range map[int]int{
		sqlite3.SQLITE_LIMIT_LENGTH:   maxSQLValue,
		sqlite3.SQLITE_LIMIT_ATTACHED: 0,
	} {
		if _, err := sqlite.Limit(conn, id, most); err != nil {
			return fmt.Errorf("set limit: %w", err)
		}
	}
	return nil
}

// sqlRowsPerOp is how many rows cost one op: the engine charges each row too, this
// is for the pages read.
const sqlRowsPerOp = 1000

func emitSQL(ctx context.Context, scope *vql.Scope, rows *sql.Rows, emit vql.Emit) error {
	names, err := rows.Columns()
	if err != nil {
		return err
	}
	names = uniqueNames(names)
	values, into := make([]any, len(names)), make([]any, len(names))
	for i := range values {
		into[i] = &values[i]
	}
	for n := 0; rows.Next(); n++ {
		if n%sqlRowsPerOp == 0 {
			if err := scope.Charge(ctx); err != nil {
				return err
			}
		}
		if err := rows.Scan(into...); err != nil {
			return err
		}
		row := vql.NewDict()
		for i, name := range names {
			row.Set(name, fromSQL(values[i]))
		}
		if err := emit(row); err != nil {
			return err
		}
	}
	return rows.Err()
}

// uniqueNames gives columns of one name different ones, so that none is lost.
func uniqueNames(names []string) []string {
	seen := map[string]bool{}
	out := make([]string, len(names))
	for i, name := range names {
		unique := name
		for n := 2; seen[unique]; n++ {
			unique = name + "_" + strconv.Itoa(n)
		}
		seen[unique] = true
		out[i] = unique
	}
	return out
}

func fromSQL(v any) vql.Value {
	switch t := v.(type) {
	case nil:
		return vql.NULL
	case []byte:
		return string(t)
	}
	return v
}

// closeSQL closes what was opened for reading: an error means a driver at fault.
func closeSQL(scope *vql.Scope, c interface{ Close() error }) {
	if err := c.Close(); err != nil {
		scope.Log(vql.LevelDebug, "sqlite: close: %v", err)
	}
}
