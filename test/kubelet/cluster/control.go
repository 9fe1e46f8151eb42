package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// The control plane is reachable only from this network namespace, and forgotten with it: one fixed token will do.
const (
	token     = "berth"
	apiServer = "https://" + NodeIP + ":6443"
	etcd      = "http://127.0.0.1:2379"
	services  = "10.96.0.0/16"
)

func (c *Cluster) kube(name string) string { return c.Tool("kube/" + name) }

func (c *Cluster) pki(name string) string { return filepath.Join(c.Dir, "pki", name) }

// controlPlane starts etcd, the API server, the controller manager and the scheduler.
func (c *Cluster) controlPlane() error {
	if err := c.credentials(); err != nil {
		return err
	}
	if err := c.launch("etcd", c.kube("etcd"), "--unsafe-no-fsync", "--log-level=error", "--data-dir="+filepath.Join(c.Dir, "etcd"),
		"--listen-client-urls="+etcd, "--advertise-client-urls="+etcd, "--listen-peer-urls=http://127.0.0.1:2380"); err != nil {
		return err
	}
	admission := "--enable-admission-plugins="
	if os.Getenv("BERTH_NODE_E2E") != "" {
		// As the node tests' own API server does: they know of no volume with a token.
		admission = "--disable-admission-plugins=ServiceAccount"
	}
	if err := c.launch("kube-apiserver", c.kube("kube-apiserver"), admission, "--etcd-servers="+etcd, "--secure-port=6443", "--bind-address="+NodeIP,
		"--cert-dir="+filepath.Join(c.Dir, "pki"), "--token-auth-file="+c.pki("tokens.csv"), "--authorization-mode=AlwaysAllow",
		"--service-cluster-ip-range="+services, "--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+c.pki("sa.pub"), "--service-account-signing-key-file="+c.pki("sa.key"), "--allow-privileged",
		"--kubelet-preferred-address-types=InternalIP", "--endpoint-reconciler-type=none"); err != nil {
		return err
	}
	c.Rest = &rest.Config{Host: apiServer, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{Insecure: true}, QPS: 100, Burst: 200}
	client, err := kubernetes.NewForConfig(c.Rest)
	if err != nil {
		return err
	}
	c.Client = client
	if err := Poll(context.Background(), 3*time.Minute, func(ctx context.Context) error {
		return client.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	}); err != nil {
		return err
	}
	// The API server makes its certificate on its first start.
	if err := c.launch("kube-controller-manager", c.kube("kube-controller-manager"), "--kubeconfig="+c.Kubeconfig, "--leader-elect=false",
		"--service-account-private-key-file="+c.pki("sa.key"), "--root-ca-file="+c.pki("apiserver.crt"), "--cert-dir="+c.pki("kcm"),
		"--use-service-account-credentials=false"); err != nil {
		return err
	}
	return c.launch("kube-scheduler", c.kube("kube-scheduler"), "--kubeconfig="+c.Kubeconfig, "--leader-elect=false", "--cert-dir="+c.pki("scheduler"))
}

// credentials writes the token, the key service account tokens are signed with, and a kubeconfig.
func (c *Cluster) credentials() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		"sa.key":     pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}),
		"sa.pub":     pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
		"tokens.csv": fmt.Appendf(nil, "%s,admin,admin,system:masters\n", token),
	} {
		if err := os.WriteFile(c.pki(name), data, 0o600); err != nil {
			return err
		}
	}
	c.Kubeconfig = filepath.Join(c.Dir, "kubeconfig")
	return clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"c": {Server: apiServer, InsecureSkipTLSVerify: true}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"u": {Token: token}},
		Contexts:       map[string]*clientcmdapi.Context{"x": {Cluster: "c", AuthInfo: "u"}},
		CurrentContext: "x",
	}, c.Kubeconfig)
}

// Kubectl is a command of kubectl as the cluster's administrator.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.kube("kubectl"), append([]string{"--kubeconfig=" + c.Kubeconfig}, args...)...)
	cmd.WaitDelay = time.Second
	return cmd
}
