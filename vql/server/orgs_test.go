package server_test

import "testing"

func TestThereIsOneOrg(t *testing.T) {
	w := newWorld(t)
	root := w.as("root", "org_admin")
	root.want(`SELECT org_create(name='x') AS A, org_delete(org='O123') AS B FROM scope()`, `{"A":null,"B":null}`)
	root.wantLog("there is one org")
	ada := w.admin()
	ada.want(`SELECT org_create(name='x') AS A FROM scope()`, `{"A":null}`)
	ada.wantLog("ORG_ADMIN is needed")
}

func TestTheFrontendsCertificateIsShown(t *testing.T) {
	w := newWorld(t)
	h := w.host("ada")
	s := w.session(roles{"administrator"}, nil, h)
	s.want(`SELECT server_frontend_cert() AS C FROM scope()`, `{"C":null}`)
	h = w.host("ada")
	h.FrontendCertificate = "-----BEGIN CERTIFICATE-----\n"
	w.session(roles{"administrator"}, nil, h).want(`SELECT server_frontend_cert() AS C FROM scope()`, `{"C":"-----BEGIN CERTIFICATE-----\n"}`)
	w.session(roles{"analyst"}, nil, h).want(`SELECT server_frontend_cert() AS C FROM scope()`, `{"C":null}`)
}
