// Package users owns operators: accounts, roles, permissions, passwords, sessions,
// and what each keeps for itself: options of the GUI, messages, favourite collections.
//
// It never knows a route and never answers a request: doors ask Check, which is
// the one permission check of the pack. Accounts and sessions are ledger state,
// so that a sign-out or a lock reaches all nodes; passwords are argon2id hashes,
// session ids and API keys are kept as SHA-256 only.
//
// Main walk: PlanSet -> Apply -> SignIn, Session, Check. What an account keeps is
// bounded (profile.go), so that nobody fills the ledger's memory through it.
//
// Locking: one RWMutex guards the tables; accounts are immutable and replaced
// whole. Hashing happens outside of it, at most four at once.
package users
