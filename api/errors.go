package api

import (
	"context"
	"errors"
	"io/fs"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"raptorpack/artifacts"
	"raptorpack/clients"
	"raptorpack/collections"
	"raptorpack/container"
	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/internal/archive"
	"raptorpack/inventory"
	"raptorpack/users"
)

// ErrNoMaster is what a Ledger's error wraps when nobody leads at the moment.
// Trying again helps.
var ErrNoMaster = errors.New("no master at the moment")

// ErrUnsure is what a Ledger's error wraps when a change may yet happen. Sending it
// again with the same key is harmless.
var ErrUnsure = errors.New("the change may or may not have been made")

// errShownOnce answers a request for a key that came twice. Trying again does not
// help: only the first answer had it.
var errShownOnce = errors.New("the key was made; it is shown once")

// errLeaving ends calls of a node that stops.
var errLeaving = errors.New("this node is stopping")

// kinds maps what went wrong to both doors; the first that fits counts.
var kinds = []struct {
	cause error
	http  int
	grpc  codes.Code
}{
	{errNobody, http.StatusUnauthorized, codes.Unauthenticated},
	{users.ErrDenied, http.StatusUnauthorized, codes.Unauthenticated},
	{users.ErrForbidden, http.StatusForbidden, codes.PermissionDenied},
	{clients.ErrUnknownClient, http.StatusNotFound, codes.NotFound},
	{flows.ErrNotFound, http.StatusNotFound, codes.NotFound},
	{hunts.ErrNotFound, http.StatusNotFound, codes.NotFound},
	{artifacts.ErrUnknown, http.StatusNotFound, codes.NotFound},
	{users.ErrUnknownUser, http.StatusNotFound, codes.NotFound},
	{inventory.ErrUnknown, http.StatusNotFound, codes.NotFound},
	{fs.ErrNotExist, http.StatusNotFound, codes.NotFound},
	{ErrUnknownNode, http.StatusNotFound, codes.NotFound},
	{hunts.ErrBadArchive, http.StatusUnprocessableEntity, codes.InvalidArgument},
	{hunts.ErrExists, http.StatusConflict, codes.AlreadyExists},
	{hunts.ErrState, http.StatusConflict, codes.FailedPrecondition},
	{hunts.ErrSortCancelled, http.StatusConflict, codes.Aborted},
	{hunts.ErrTooLarge, http.StatusUnprocessableEntity, codes.ResourceExhausted},
	{hunts.ErrUnread, http.StatusServiceUnavailable, codes.Unavailable},
	{hunts.ErrBusy, http.StatusServiceUnavailable, codes.Unavailable},
	{hunts.ErrLimit, http.StatusConflict, codes.FailedPrecondition},
	{flows.ErrExists, http.StatusConflict, codes.AlreadyExists},
	{flows.ErrFinished, http.StatusConflict, codes.FailedPrecondition},
	{flows.ErrTableChanged, http.StatusConflict, codes.Aborted},
	{flows.ErrUnfinished, http.StatusConflict, codes.FailedPrecondition},
	{artifacts.ErrBuiltIn, http.StatusConflict, codes.FailedPrecondition},
	{inventory.ErrMissing, http.StatusConflict, codes.FailedPrecondition},
	{inventory.ErrChanged, http.StatusConflict, codes.Aborted},
	{errSuccessor, http.StatusConflict, codes.FailedPrecondition},
	{ids.ErrInvalid, http.StatusUnprocessableEntity, codes.InvalidArgument},
	{container.ErrUnsound, http.StatusUnprocessableEntity, codes.InvalidArgument},
	{container.ErrHunt, http.StatusUnprocessableEntity, codes.InvalidArgument},
	{container.ErrNoRows, http.StatusUnprocessableEntity, codes.InvalidArgument},
	{archive.ErrPassword, http.StatusUnprocessableEntity, codes.InvalidArgument},
	{collections.ErrBusy, http.StatusServiceUnavailable, codes.Unavailable},
	{collections.ErrInvalid, http.StatusUnprocessableEntity, codes.InvalidArgument},
	{hunts.ErrInvalid, http.StatusUnprocessableEntity, codes.InvalidArgument},
	{flows.ErrInvalid, http.StatusUnprocessableEntity, codes.InvalidArgument},
	{clients.ErrRefused, http.StatusUnprocessableEntity, codes.InvalidArgument},
	{clients.ErrQuery, http.StatusUnprocessableEntity, codes.InvalidArgument},
	{artifacts.ErrInvalid, http.StatusUnprocessableEntity, codes.InvalidArgument},
	{users.ErrRefused, http.StatusUnprocessableEntity, codes.InvalidArgument},
	{filestore.ErrBadCursor, http.StatusUnprocessableEntity, codes.InvalidArgument},
	{filestore.ErrBadName, http.StatusUnprocessableEntity, codes.InvalidArgument},
	{inventory.ErrInvalid, http.StatusUnprocessableEntity, codes.InvalidArgument},
	{inventory.ErrTooLarge, http.StatusRequestEntityTooLarge, codes.InvalidArgument},
	{errHeader, http.StatusUnprocessableEntity, codes.InvalidArgument},
	{filestore.ErrFull, http.StatusInsufficientStorage, codes.ResourceExhausted},
	{errTails, http.StatusServiceUnavailable, codes.ResourceExhausted},
	{errLeaving, http.StatusServiceUnavailable, codes.Unavailable},
	{errShownOnce, http.StatusConflict, codes.AlreadyExists},
	{ErrUnsure, http.StatusServiceUnavailable, codes.Unavailable},
	{inventory.ErrFetching, http.StatusServiceUnavailable, codes.Unavailable},
	{ErrUnheard, http.StatusServiceUnavailable, codes.Unavailable},
	{errBehind, http.StatusServiceUnavailable, codes.Unavailable},
	{errUnconfirmed, http.StatusServiceUnavailable, codes.Unavailable},
	{ErrNoMaster, http.StatusServiceUnavailable, codes.Unavailable},
	{context.DeadlineExceeded, http.StatusServiceUnavailable, codes.DeadlineExceeded},
	{context.Canceled, 499, codes.Canceled},
}

// fail maps an error to problem+json. What nobody foresaw keeps its cause in the
// log and shows only that something broke.
func (s *Server) fail(err error) error {
	for _, kind := range kinds {
		if errors.Is(err, kind.cause) {
			if kind.http == http.StatusServiceUnavailable {
				return huma.ErrorWithHeaders(huma.NewError(kind.http, err.Error()), http.Header{"Retry-After": {"2"}})
			}
			return huma.NewError(kind.http, err.Error())
		}
	}
	s.log.Error("request failed", "err", err)
	return huma.NewError(http.StatusInternalServerError, "something broke on the server; its log says what")
}

// failGRPC maps an error to a status.
func (s *Server) failGRPC(err error) error {
	for _, kind := range kinds {
		if errors.Is(err, kind.cause) {
			return status.Error(kind.grpc, err.Error())
		}
	}
	s.log.Error("call failed", "err", err)
	return status.Error(codes.Internal, "something broke on the server; its log says what")
}
