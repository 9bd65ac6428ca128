package certificates

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

const (
	userSigner = certificatesv1.KubeAPIServerClientSignerName
	kubelet    = certificatesv1.KubeAPIServerClientKubeletSignerName
	serving    = certificatesv1.KubeletServingSignerName
)

type usages = []certificatesv1.KeyUsage

var (
	asClient   = usages{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}
	asServer   = usages{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth}
	withRSAKey = usages{certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageClientAuth}
)

func subject(name string, groups ...string) x509.CertificateRequest {
	return x509.CertificateRequest{Subject: pkix.Name{CommonName: name, Organization: groups}}
}

func nodeRequest(change func(r *x509.CertificateRequest)) x509.CertificateRequest {
	r := subject("system:node:alpha", "system:nodes")
	if change != nil {
		change(&r)
	}
	return r
}

func servingRequest(change func(r *x509.CertificateRequest)) x509.CertificateRequest {
	r := nodeRequest(nil)
	r.DNSNames, r.IPAddresses = []string{"alpha"}, []net.IP{net.ParseIP("192.0.2.7")}
	if change != nil {
		change(&r)
	}
	return r
}

func TestSignable(t *testing.T) {
	tests := map[string]struct {
		signer  string
		usages  usages
		request x509.CertificateRequest
		want    string
	}{
		"a user":                             {userSigner, asClient, subject("ann", "staff"), ""},
		"a user with an RSA key":             {userSigner, withRSAKey, subject("ann"), ""},
		"a user of all power":                {userSigner, asClient, subject("ann", "staff", "system:masters"), "system:masters"},
		"a user who serves":                  {userSigner, append(usages{certificatesv1.UsageServerAuth}, asClient...), subject("ann"), `usage "server auth" is not allowed`},
		"a user who signs":                   {userSigner, append(usages{certificatesv1.UsageCertSign}, asClient...), subject("ann"), `usage "cert sign" is not allowed`},
		"a user without the usage":           {userSigner, usages{certificatesv1.UsageDigitalSignature}, subject("ann"), `usage "client auth" is missing`},
		"a node":                             {kubelet, asClient, nodeRequest(nil), ""},
		"a node with an RSA key":             {kubelet, withRSAKey, nodeRequest(nil), ""},
		"a node in a group more":             {kubelet, asClient, subject("system:node:alpha", "system:nodes", "staff"), "system:nodes alone"},
		"a node in no group":                 {kubelet, asClient, subject("system:node:alpha"), "system:nodes alone"},
		"a node without its prefix":          {kubelet, asClient, subject("alpha", "system:nodes"), "system:node:NAME"},
		"a node without a name":              {kubelet, asClient, subject("system:node:", "system:nodes"), "system:node:NAME"},
		"a node's client with a DNS name":    {kubelet, asClient, servingRequest(nil), "no alternative names"},
		"a node's client that serves":        {kubelet, asServer, nodeRequest(nil), "not allowed"},
		"a node's client without signatures": {kubelet, usages{certificatesv1.UsageClientAuth}, nodeRequest(nil), `usage "digital signature" is missing`},
		"a node's API":                       {serving, asServer, servingRequest(nil), ""},
		"a node's API by address alone":      {serving, asServer, servingRequest(func(r *x509.CertificateRequest) { r.DNSNames = nil }), ""},
		"a node's API without any name":      {serving, asServer, nodeRequest(nil), "needs DNS names or addresses"},
		"a node's API with a URI":            {serving, asServer, servingRequest(func(r *x509.CertificateRequest) { r.URIs = []*url.URL{{Scheme: "spiffe"}} }), "no e-mail addresses or URIs"},
		"a node's API with an e-mail":        {serving, asServer, servingRequest(func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"a@b"} }), "no e-mail addresses or URIs"},
		"a node's API that is a client":      {serving, asClient, servingRequest(nil), "not allowed"},
		"a user's API":                       {serving, asServer, subject("ann"), "system:nodes alone"},
		"another signer":                     {"example.com/x", asClient, subject("ann"), "not ours"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := signable(tc.signer, tc.usages, &tc.request)
			if tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
				t.Errorf("signable() = %q; want %q", got, tc.want)
			}
		})
	}
}

func by(user string, groups []string, signer string, u usages) *certificatesv1.CertificateSigningRequest {
	return &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{
		Username: user, Groups: groups, SignerName: signer, Usages: u,
	}}
}

func TestJudgeClient(t *testing.T) {
	const node, machine = "system:node:alpha", "system:bootstrap:abc123"
	tests := map[string]struct {
		user             string
		request          x509.CertificateRequest
		signer           string
		permitted, alive bool
		inquiry          string
		want             certificatesv1.RequestConditionType
	}{
		"a joining machine with a token":             {user: machine, request: nodeRequest(nil), permitted: true, inquiry: "nodeclient", want: certificatesv1.CertificateApproved},
		"a joining machine without the permission":   {user: machine, request: nodeRequest(nil), inquiry: "nodeclient"},
		"a joining machine of a live node's name":    {user: machine, request: nodeRequest(nil), permitted: true, alive: true, inquiry: "nodeclient", want: certificatesv1.CertificateDenied},
		"the same without the permission":            {user: machine, request: nodeRequest(nil), alive: true, inquiry: "nodeclient"},
		"a node that renews":                         {user: node, request: nodeRequest(nil), permitted: true, alive: true, inquiry: "selfnodeclient", want: certificatesv1.CertificateApproved},
		"a node that may not renew":                  {user: node, request: nodeRequest(nil), inquiry: "selfnodeclient"},
		"a node that asks for another":               {user: "system:node:beta", request: nodeRequest(nil), inquiry: "nodeclient"},
		"a request beyond the signer's promise":      {user: machine, request: servingRequest(nil), permitted: true},
		"a request to the signer of users":           {user: machine, request: nodeRequest(nil), signer: userSigner, permitted: true},
		"a request for a serving certificate's rule": {user: node, request: servingRequest(nil), signer: serving, permitted: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if tc.signer == "" {
				tc.signer = kubelet
			}
			csr := by(tc.user, nil, tc.signer, asClient)
			if got := inquiry(csr, &tc.request); got != tc.inquiry {
				t.Errorf("inquiry() = %q; want %q", got, tc.inquiry)
			}
			if got := judgeClient(csr, &tc.request, tc.permitted, tc.alive); got.condition != tc.want {
				t.Errorf("judgeClient() = %+v; want %q", got, tc.want)
			}
		})
	}
}

func TestJudgeServing(t *testing.T) {
	alpha := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "alpha"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: "192.0.2.7"}, {Type: corev1.NodeHostName, Address: "alpha.example.com"}, {Type: corev1.NodeInternalIP, Address: "2001:db8::7"},
	}}}
	nodes := []string{"system:nodes", "system:authenticated"}
	tests := map[string]struct {
		user    string
		groups  []string
		request x509.CertificateRequest
		usages  usages
		node    *corev1.Node
		want    bool
	}{
		"its name and address":  {request: servingRequest(nil), node: alpha, want: true},
		"every name it reports": {request: servingRequest(func(r *x509.CertificateRequest) { r.DNSNames = []string{"alpha", "localhost", "alpha.example.com"} }), node: alpha, want: true},
		"its other address, and itself": {request: servingRequest(func(r *x509.CertificateRequest) {
			r.IPAddresses = []net.IP{net.ParseIP("2001:db8::7"), net.IPv6loopback}
		}), node: alpha, want: true},
		"another's address":             {request: servingRequest(func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.ParseIP("192.0.2.8")} }), node: alpha},
		"another's name":                {request: servingRequest(func(r *x509.CertificateRequest) { r.DNSNames = []string{"kubernetes"} }), node: alpha},
		"before it registered":          {request: servingRequest(nil)},
		"for another node":              {user: "system:node:beta", request: servingRequest(nil), node: alpha},
		"by somebody who is not a node": {groups: []string{"staff"}, request: servingRequest(nil), node: alpha},
		"as a client":                   {request: servingRequest(nil), usages: asClient, node: alpha},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			csr := by("system:node:alpha", nodes, serving, asServer)
			if tc.user != "" {
				csr.Spec.Username = tc.user
			}
			if tc.groups != nil {
				csr.Spec.Groups = tc.groups
			}
			if tc.usages != nil {
				csr.Spec.Usages = tc.usages
			}
			got := judgeServing(csr, &tc.request, tc.node)
			if (got.condition == certificatesv1.CertificateApproved) != tc.want || !tc.want && got.condition != "" {
				t.Errorf("judgeServing() = %+v; want approved = %v", got, tc.want)
			}
		})
	}
}

func TestTemplate(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	forever, soon := &x509.Certificate{NotAfter: now.AddDate(20, 0, 0)}, &x509.Certificate{NotAfter: now.Add(24 * time.Hour)}
	tests := map[string]struct {
		seconds *int32
		ca      *x509.Certificate
		want    time.Duration
	}{
		"a year unless asked":          {nil, forever, 365 * 24 * time.Hour},
		"as short as asked":            {ptr.To[int32](3600), forever, time.Hour},
		"not shorter than ten minutes": {ptr.To[int32](1), forever, 10 * time.Minute},
		"not longer than a year":       {ptr.To[int32](1 << 30), forever, 365 * 24 * time.Hour},
		"not longer than its signer":   {nil, soon, 24 * time.Hour},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			request := servingRequest(nil)
			got := template(&certificatesv1.CertificateSigningRequestSpec{ExpirationSeconds: tc.seconds, Usages: asServer}, &request, tc.ca, now)
			if life := got.NotAfter.Sub(now); life != tc.want || now.Sub(got.NotBefore) != 5*time.Minute {
				t.Errorf("valid from %s for %v; want %v", got.NotBefore, life, tc.want)
			}
			if got.IsCA || got.KeyUsage != x509.KeyUsageDigitalSignature || len(got.ExtKeyUsage) != 1 || got.ExtKeyUsage[0] != x509.ExtKeyUsageServerAuth {
				t.Errorf("usages %v %v, CA %v", got.KeyUsage, got.ExtKeyUsage, got.IsCA)
			}
		})
	}
}

func TestRemaining(t *testing.T) {
	made := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	later := made.Add(30 * time.Minute)
	condition := func(kind certificatesv1.RequestConditionType) []certificatesv1.CertificateSigningRequestCondition {
		return []certificatesv1.CertificateSigningRequestCondition{{Type: kind, LastUpdateTime: metav1.NewTime(later)}}
	}
	tests := map[string]struct {
		status certificatesv1.CertificateSigningRequestStatus
		want   time.Duration // after it was made
	}{
		"undecided a day":                  {certificatesv1.CertificateSigningRequestStatus{}, 24 * time.Hour},
		"approved but not signed a day":    {certificatesv1.CertificateSigningRequestStatus{Conditions: condition(certificatesv1.CertificateApproved)}, 24 * time.Hour},
		"denied an hour from the denial":   {certificatesv1.CertificateSigningRequestStatus{Conditions: condition(certificatesv1.CertificateDenied)}, 90 * time.Minute},
		"failed an hour from the failure":  {certificatesv1.CertificateSigningRequestStatus{Conditions: condition(certificatesv1.CertificateFailed)}, 90 * time.Minute},
		"signed an hour from its approval": {certificatesv1.CertificateSigningRequestStatus{Conditions: condition(certificatesv1.CertificateApproved), Certificate: ending(t, made.Add(time.Hour*9))}, 90 * time.Minute},
		"ended already, it goes":           {certificatesv1.CertificateSigningRequestStatus{Conditions: condition(certificatesv1.CertificateApproved), Certificate: ending(t, made)}, time.Minute},
		"signed with what cannot be read":  {certificatesv1.CertificateSigningRequestStatus{Conditions: condition(certificatesv1.CertificateApproved), Certificate: []byte("x")}, 90 * time.Minute},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			csr := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(made)}, Status: tc.status}
			if got := remaining(csr, made.Add(time.Minute)) + time.Minute; got != tc.want {
				t.Errorf("kept for %v; want %v", got, tc.want)
			}
		})
	}
}

func ending(t *testing.T, end time.Time) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: end}
	raw, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})
}
