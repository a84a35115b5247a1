// Follows a room for ever: resumes where it was, and acknowledges each message that it has handled.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"

	unibus "github.com/unibus-rs/unibus/clients/go"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	client, err := unibus.Dial("http://127.0.0.1:50051")
	if err != nil {
		log.Fatal(err)
	}
	err = client.Room("orders").Subscribe(ctx, "billing", func(ctx context.Context, m *unibus.Message) error {
		fmt.Println(m.Sequence, string(m.Payload))
		return nil
	})
	log.Println(err)
}
