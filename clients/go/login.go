package unibus

import (
	"context"

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
	supply := l.client.options.token
	if supply == nil {
		return ctx, nil
	}
	limited, cancel := context.WithTimeout(ctx, l.client.options.attempt)
	defer cancel()
	token, err := supply(limited)
	if err != nil {
		return nil, &Error{Code: codes.Unavailable, Message: "no token: " + err.Error(), Class: Again, cause: err}
	}
	if l.refused != nil && token == l.token {
		final := *l.refused
		final.Class = Final
		return nil, &final
	}
	l.token, l.refused = token, nil
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token), nil
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
