package unibus_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	unibus "github.com/unibus-rs/unibus/clients/go"
)

var (
	ctx  = context.Background()
	room *unibus.Room
)

func ExampleDial() {
	client, err := unibus.Dial("https://unibus.example.com:50051", unibus.WithToken("..."))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
}

func ExampleRoom_Subscribe() {
	err := room.Subscribe(ctx, "billing", func(ctx context.Context, m *unibus.Message) error {
		fmt.Println(m.Sequence, string(m.Payload))
		return nil // now the message counts as processed
	})
	log.Println(err)
}

func ExampleRoom_Messages() {
	for m, err := range room.Messages(ctx, "billing", unibus.UntilCaughtUp()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(m.Sequence, string(m.Payload))
	}
}

func ExampleRoom_Publish() {
	published, err := room.Publish(ctx, []byte("ordered"))
	var e *unibus.Error
	if errors.As(err, &e) && e.OutcomeUnknown {
		log.Printf("the message %s may be stored", e.MessageID)
	}
	fmt.Println(published.Sequence)
}

func ExampleRoom_Publisher() {
	publisher, err := room.Publisher()
	if err != nil {
		log.Fatal(err)
	}
	for i := range 1000 {
		if _, err := publisher.Send(ctx, fmt.Append(nil, "order ", i)); err != nil {
			log.Fatal(err)
		}
	}
	if err := publisher.Close(ctx); err != nil {
		log.Fatal(err)
	}
}

func ExampleRoom_History() {
	for m, err := range room.History(ctx, unibus.Backwards(), unibus.Since(time.Now().Add(-time.Hour))) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(m.Sequence, m.Sender)
	}
}
