package replication

import (
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var (
	// errNotMaster means that the asked node does not lead. Another one may.
	errNotMaster = errors.New("this node does not lead")

	// errBehind means that the master has let go of the entries that a follower
	// needs next; files have them.
	errBehind = errors.New("too far behind to follow")

	// errBlobGone means that a proposal names a blob that is not there.
	errBlobGone = errors.New("the body of a proposal is not there")

	// errSilent means that the other side said nothing for too long.
	errSilent = errors.New("no word from the other side")
)

// busDomain marks the details of our errors.
const busDomain = "bus.raptorpack"

// busError is one meaning on the bus.
type busError struct {
	reason string
	err    error
	code   codes.Code
}

// busErrors are the meanings that survive the bus, both ways.
var busErrors = []busError{
	{"BLOB_GONE", errBlobGone, codes.FailedPrecondition}, // before DAMAGED, which it is too
	{"NOT_MASTER", errNotMaster, codes.FailedPrecondition},
	{"DEPOSED", ErrDeposed, codes.FailedPrecondition},
	{"BEHIND", errBehind, codes.OutOfRange},
	{"DIVERGED", ErrDiverged, codes.DataLoss},
	{"DAMAGED", ErrDamaged, codes.DataLoss},
	{"NO_MASTER", ErrNoMaster, codes.Unavailable},
	{"UNSURE", ErrUnsure, codes.Unavailable},
	{"GAP", ErrGap, codes.OutOfRange},
	{"VERSION", ErrVersion, codes.Unimplemented},
	{"INVALID", ErrInvalid, codes.InvalidArgument},
	{"TOO_LARGE", ErrTooLarge, codes.InvalidArgument},
	{"UNKNOWN_KIND", ErrUnknownKind, codes.InvalidArgument},
}

// toBus makes err something that the bus carries.
func toBus(err error) error {
	if err == nil {
		return nil
	}
	for _, known := range busErrors {
		if !errors.Is(err, known.err) {
			continue
		}
		s, detailed := status.New(known.code, err.Error()).WithDetails(&errdetails.ErrorInfo{Reason: known.reason, Domain: busDomain})
		if detailed != nil {
			return status.Error(known.code, err.Error())
		}
		return s.Err()
	}
	return status.FromContextError(err).Err()
}

// fromBus gives an error that came over the bus its meaning back.
func fromBus(err error) error {
	s, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	for _, detail := range s.Details() {
		info, ok := detail.(*errdetails.ErrorInfo)
		if !ok || info.GetDomain() != busDomain {
			continue
		}
		for _, known := range busErrors {
			if known.reason == info.GetReason() {
				return fmt.Errorf("%w (by the other node: %s)", known.err, s.Message())
			}
		}
	}
	return fmt.Errorf("bus: %s: %s", s.Code(), s.Message())
}
