package unibus

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/unibus-rs/unibus/clients/go/unibusv1"
)

// Version is the version of this package.
const Version = "0.1.0"

// Client is a connection to the service. It reconnects by itself and is made once for each program.
type Client struct {
	options clientOptions
	conn    *grpc.ClientConn
	service unibusv1.RoomServiceClient

	// These end one after the other when the client is closed. They end subscriptions, publishers, and calls.
	closing, flushing, closed context.Context
	close, flush, kill        context.CancelFunc

	mu                        sync.Mutex
	subscriptions, publishers sync.WaitGroup
	policies                  map[string]publishPolicy
}

type clientOptions struct {
	token          func(context.Context) (string, error)
	fixedToken     bool
	plaintextToken bool
	tls            *tls.Config
	attempt, total time.Duration
	publish        time.Duration
	maxReceive     int
	errs           []error
}

// Option is an option of Dial.
type Option func(*clientOptions)

// WithToken sends the same token with every call. When the token expires, calls fail: see WithTokenFunc.
func WithToken(token string) Option {
	return func(o *clientOptions) {
		o.token, o.fixedToken = func(context.Context) (string, error) { return token, nil }, true
		o.errs = append(o.errs, checkToken(token))
	}
}

// WithTokenFunc calls token for each attempt of each call (U8). The function keeps a token for as long as it is
// valid, and fetches a new one in time. If it fails, or does not return within the time of one attempt, the client
// tries again later. It may be called by several goroutines at once.
func WithTokenFunc(token func(ctx context.Context) (string, error)) Option {
	return func(o *clientOptions) { o.token, o.fixedToken = token, false }
}

// WithPlaintextToken allows a token over http:// to a loopback address (U5).
func WithPlaintextToken() Option { return func(o *clientOptions) { o.plaintextToken = true } }

// WithTLS uses a TLS configuration, for whatever WithCAFile and WithCertificateFiles do not offer.
func WithTLS(config *tls.Config) Option { return func(o *clientOptions) { o.tls = config.Clone() } }

// WithCAFile trusts the certificates of a PEM file in place of those of the system (U5).
func WithCAFile(path string) Option {
	return func(o *clientOptions) {
		pem, err := os.ReadFile(path)
		o.tls.RootCAs = x509.NewCertPool()
		if err == nil && !o.tls.RootCAs.AppendCertsFromPEM(pem) {
			err = fmt.Errorf("%s has no certificate", path)
		}
		o.errs = append(o.errs, err)
	}
}

// WithCertificateFiles presents a client certificate from PEM files (U5). The files are read for each connection, so
// that they can be renewed.
func WithCertificateFiles(certificate, key string) Option {
	return func(o *clientOptions) {
		_, err := tls.LoadX509KeyPair(certificate, key)
		o.errs = append(o.errs, err)
		o.tls.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(certificate, key)
			return &pair, err
		}
	}
}

// WithAttemptTimeout sets the time of one attempt of a call (U9). The default is 10 s.
func WithAttemptTimeout(limit time.Duration) Option {
	return func(o *clientOptions) { o.attempt = limit }
}

// WithCallTimeout sets the time of all attempts of a call (U9). The default is 60 s. For a message it only shortens
// the time that the room's window allows (U11).
func WithCallTimeout(limit time.Duration) Option {
	return func(o *clientOptions) { o.total, o.publish = limit, limit }
}

// WithMaxReceiveSize sets the size of the largest answer that the client reads (U7). The default is 16 MiB.
func WithMaxReceiveSize(bytes int) Option { return func(o *clientOptions) { o.maxReceive = bytes } }

// Dial makes a client for a service at https://host:port, or at http://host:port in plaintext (U5). It does no I/O:
// the first call connects.
func Dial(target string, opts ...Option) (*Client, error) {
	o := clientOptions{
		tls:        &tls.Config{MinVersion: tls.VersionTLS12},
		attempt:    10 * time.Second,
		total:      time.Minute,
		maxReceive: 16 << 20,
	}
	for _, opt := range opts {
		opt(&o)
	}
	if o.attempt <= 0 || o.total <= 0 || o.maxReceive <= 0 {
		o.errs = append(o.errs, errors.New("the times and the receive limit must be greater than 0"))
	}
	address, transport, err := o.transport(target)
	if err != nil {
		return nil, invalid(err)
	}
	conn, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(transport),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}), // U6
		// The default waits up to two minutes after a long outage. With its jitter this one waits at most 2 s (U4).
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: firstPause, Multiplier: 2, Jitter: 0.2, MaxDelay: longestPause * 4 / 5},
			MinConnectTimeout: 5 * time.Second,
		}),
		// A call waits for the connection, so that it is made as soon as the connection is back.
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(o.maxReceive), grpc.WaitForReady(true)), // U7
		grpc.WithDisableServiceConfig(),
		grpc.WithUserAgent("unibus-go/"+Version),
	)
	if err != nil {
		return nil, invalid(err)
	}
	c := &Client{options: o, conn: conn, policies: map[string]publishPolicy{}}
	c.service = unibusv1.NewRoomServiceClient(conn)
	c.closing, c.close = context.WithCancel(context.Background())
	c.flushing, c.flush = context.WithCancel(context.Background())
	c.closed, c.kill = context.WithCancel(context.Background())
	return c, nil
}

// transport refuses what would send a token over a network in plaintext (U5).
func (o *clientOptions) transport(target string) (string, credentials.TransportCredentials, error) {
	u, err := url.Parse(target)
	if err = errors.Join(append(o.errs, err)...); err != nil {
		return "", nil, err
	}
	if u.Hostname() == "" || u.Path != "" && u.Path != "/" {
		return "", nil, fmt.Errorf("the address %q is not https://host:port or http://host:port", target)
	}
	defaults := map[string]string{"https": "443", "http": "80"}
	port := cmp.Or(u.Port(), defaults[u.Scheme])
	// The name is resolved for each connection. The resolver "dns" of grpc-go would wait up to two minutes after an outage (U4).
	address := "passthrough:///" + net.JoinHostPort(u.Hostname(), port)
	switch {
	case u.Scheme == "https":
		return address, credentials.NewTLS(o.tls), nil
	case u.Scheme != "http":
		return "", nil, fmt.Errorf("the address %q begins with neither https:// nor http://", target)
	case o.token != nil && !(o.plaintextToken && isLoopback(u.Hostname())):
		return "", nil, fmt.Errorf("no token is sent to %s in plaintext, but with WithPlaintextToken to loopback", target)
	}
	return address, insecure.NewCredentials(), nil
}

func isLoopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// Close closes all subscriptions in order, then all publishers, then the connection (U27). It waits for running
// handlers, so call it in another goroutine if a handler, the loop body of Messages, or WithEvents is to close the client.
func (c *Client) Close() error {
	c.mu.Lock()
	c.close()
	c.mu.Unlock()
	c.subscriptions.Wait()
	c.flush()
	c.publishers.Wait()
	c.kill()
	c.conn.Close() // fails only if it is closed already
	return nil
}

// hold registers a subscription or a publisher that Close waits for.
func (c *Client) hold(group *sync.WaitGroup) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing.Err() != nil {
		return ErrClosed
	}
	group.Add(1)
	return nil
}
