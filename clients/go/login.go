package unibus

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// login is the token of one call, one subscription or one publisher, over its attempts (U8). The token is put into
// the metadata here and not by the per-call credentials of grpc-go, which refuse every plaintext connection.
type login struct {
	client  *Client
	token   string
	refused *Error // the outcome that asks for another token than `token`
}

// context returns the context of one attempt, with the token of the program's function.
func (l *login) context(ctx context.Context) (context.Context, error) {
	if l.client.options.token == nil {
		return ctx, nil
	}
	token, err := l.ask(ctx)
	if err != nil {
		e := &Error{Code: codes.Unavailable, Message: "no token: " + err.Error(), Class: Again, cause: err}
		if errors.Is(err, context.Canceled) {
			e.cause = nil // what the function cancelled is no cancel by the program (U3)
		}
		return nil, e
	}
	if l.refused != nil && token == l.token {
		final := *l.refused
		final.Class, l.refused = Final, nil // a publisher tries the token again with its next message
		return nil, &final
	}
	l.token, l.refused = token, nil
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token), nil
}

// ask calls the program's function. It waits no longer than for one attempt, also if the function ignores its context.
func (l *login) ask(ctx context.Context) (token string, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.client.options.attempt)
	defer cancel()
	answered := make(chan struct{})
	var supplied string
	var failed error
	go func() {
		defer close(answered)
		supplied, failed = l.client.options.token(ctx)
	}()
	select {
	case <-answered:
	case <-ctx.Done():
		return "", ctx.Err()
	case <-l.client.closed.Done():
		return "", ErrClosed
	}
	if failed == nil {
		failed = checkToken(supplied)
	}
	return supplied, failed
}

// checkToken refuses what no header can carry, such as the line feed at the end of a file.
func checkToken(token string) error {
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("the token is empty, or has a character that is not allowed, such as a line feed")
	}
	return nil
}

// again says whether another attempt can help after an outcome. An outcome that asks for a new token becomes final if
// there can be none.
func (l *login) again(e *Error) bool {
	if e.Class != NewToken {
		return e.Class == Again
	}
	if l.client.options.token == nil || l.client.options.fixedToken {
		e.Class = Final
		return false
	}
	l.refused = e
	return true
}
