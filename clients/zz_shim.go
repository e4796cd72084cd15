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

func (r *Room) RemoteOnline(node string, org ids.Org, online, offline []ids.Client) {
	for _, c := range online {
		r.SetOnline(org, c, true)
	}
	for _, c := range offline {
		r.SetOnline(org, c, false)
	}
}

func (r *Room) RemoteGone(node string)                                            {}
func (r *Room) RemoteSeen(node string, org ids.Org, seen []Sighting)               {}
