package clients

import (
	"time"

	"raptorpack/ids"
)

type Sighting struct {
	Client  ids.Client
	At      time.Time
	Address string
}

func (r *Room) RemoteOnline(node string, org ids.Org, online, offline []ids.Client) {}
func (r *Room) RemoteGone(node string)                                            {}
func (r *Room) RemoteSeen(node string, org ids.Org, seen []Sighting)               {}
