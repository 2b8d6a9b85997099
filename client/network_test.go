package client_test

import (
	"io"
	"reflect"
	"testing"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/client/clienttest"
)

func TestNetworkRoundTrip(t *testing.T) {
	service := &clienttest.Service{}
	c := connect(t, service)
	ctx := t.Context()
	s, err := c.CreateSession(ctx, agentsandbox.SessionRequest{
		Network: &agentsandbox.NetworkPolicy{Mode: agentsandbox.NetworkAllowlist, Allow: []string{"example.org"}},
		Secrets: []agentsandbox.Secret{{Name: "TOKEN", Value: agentsandbox.NewSecretValue("value"), Hosts: []string{"example.org"}, Header: "X-Key"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if s.Network == nil || s.Network.Allow[0] != "example.org" || len(s.Secrets) != 1 || s.Secrets[0].Header != "X-Key" || s.Secrets[0].Value.Reveal() != "" {
		t.Errorf("%+v", s)
	}
	if got, ok := service.Requests()[0].(agentsandbox.SessionRequest); !ok || got.Secrets[0].Value.Reveal() != "value" {
		t.Errorf("the service got %+v", got)
	}
	if s, err = c.SetNetwork(ctx, s.ID, agentsandbox.NetworkPolicy{Mode: agentsandbox.NetworkPublic, Deny: []string{"10.0.0.0/8"}}); err != nil || s.Network.Deny[0] != "10.0.0.0/8" {
		t.Fatalf("%+v, %v", s, err)
	}
	want, err := service.NetworkReport(ctx, s.ID)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.NetworkReport(ctx, s.ID); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v\nwant %+v", got, err, want)
	}
	p, err := c.OpenPort(ctx, s.ID, 8000, 60_000)
	if err != nil || p.Port != 8000 || p.URL != c.BaseURL()+"/p/TOKEN/" {
		t.Errorf("%+v, %v", p, err)
	}
	if list, err := c.OpenPorts(ctx, s.ID); err != nil || len(list) != 1 || list[0] != *p {
		t.Errorf("%+v, %v", list, err)
	}
	if err := c.ClosePort(ctx, s.ID, 8000); err != nil {
		t.Error(err)
	}
	if err := c.ClosePort(ctx, s.ID, 8000); agentsandbox.CodeOf(err) != agentsandbox.CodePortNotFound {
		t.Error(err)
	}
	if _, err := c.DialPort(ctx, s.ID, 8); agentsandbox.CodeOf(err) != agentsandbox.CodePortNotReached {
		t.Error(err)
	}
	conn, err := c.DialPort(ctx, s.ID, clienttest.EchoPort)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	back := make([]byte, 5)
	if _, err := io.ReadFull(conn, back); err != nil || string(back) != "hello" {
		t.Errorf("%q, %v", back, err)
	}
}
