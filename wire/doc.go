// Package wire speaks the client protocol: it authenticates, seals, opens,
// inflates within bounds and decodes what agents and frontends send each other,
// and it knows the two carriers, HTTP and WebSocket.
//
// It owns the envelope (Velociraptor client protocol, section 4), its session
// caches, the enrolment request, the check of the server's certificate, and the
// dialling rules of an agent. It never keeps a conversation, never stores
// anything, never decides whether a client may enrol, and knows neither flows
// nor hunts.
//
// Main walk on a server: Opener.Open takes the body of one POST or frame,
// recognises its session by the raw bytes of its sealed cipher, checks the MAC,
// and returns a Packet; Packet.Lists inflates and decodes it piece by piece.
// Sealer.Seal makes the answer. On an agent: CheckServer, NewSession,
// Session.Seal, Endpoint.Exchange, Session.Open.
//
// A server's WebSocket is read by a goroutine only while it has something to say;
// otherwise it rests with a Watcher (DESIGN.md).
//
// Locking: caches are safe for concurrent use; each session guards its own
// memory of packets by a mutex that is held for a few comparisons only. A Watcher's
// mutex is held for a look at its seats, never over a call of the system's. A
// client's Session and Endpoint say themselves who may call what.
package wire
