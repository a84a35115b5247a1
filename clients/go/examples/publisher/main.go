// Publishes each line of standard input to a room, without waiting for each answer.
package main

import (
	"bufio"
	"context"
	"log"
	"os"

	unibus "github.com/unibus-rs/unibus/clients/go"
)

func main() {
	ctx := context.Background()
	client, err := unibus.Dial("http://127.0.0.1:50051")
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	room, err := client.CreateRoom(ctx, "orders")
	if err != nil {
		log.Fatal(err)
	}
	publisher, err := room.Publisher()
	if err != nil {
		log.Fatal(err)
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if _, err := publisher.Send(ctx, lines.Bytes()); err != nil {
			log.Fatal(err)
		}
	}
	if err := publisher.Close(ctx); err != nil {
		log.Fatal(err) // a message was not stored, or may not be
	}
}
