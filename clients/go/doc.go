// Package unibus is a client of unibus: rooms over gRPC on NATS JetStream. It creates rooms, publishes messages,
// subscribes with resume, and reads the history.
//
//	client, err := unibus.Dial("https://unibus.example.com:50051", unibus.WithToken(token))
//	if err != nil {
//		return err
//	}
//	defer client.Close()
//	return client.Room("orders").Subscribe(ctx, "billing", func(ctx context.Context, m *unibus.Message) error {
//		return charge(ctx, m.Payload)
//	})
//
// Subscribe goes on for ever: it reconnects, renews tokens, resumes where it was, and acknowledges each message whose
// handler has returned nil. Publish repeats a message whose outcome is unknown with the same id, so that it is stored
// once.
//
// The comments cite points such as U15. They are the numbered points of docs/clients.md in the repository, which
// describes how every client of unibus behaves.
//
// Every failure that the service or the connection causes is an [*Error]; errors.As finds it. A cancelled context
// ends a call with context.Canceled. All methods may be called from several goroutines at the same time, unless their
// comment says otherwise.
package unibus
