// The adapter drives the client for the conformance suite: JSON lines on standard input and output.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"

	unibus "github.com/unibus-rs/unibus/clients/go"
)

type object map[string]any

// request has the fields of a request. An absent one is the zero value.
type request map[string]json.RawMessage

func field[T any](r request, name string) (value T) {
	json.Unmarshal(r[name], &value)
	return value
}

func (r request) has(name string) bool    { return r[name] != nil }
func (r request) text(name string) string { return field[string](r, name) }
func (r request) number(name string) uint64 {
	n, _ := strconv.ParseUint(strings.Trim(string(r[name]), `"`), 10, 64)
	return n
}
func (r request) milliseconds(name string) time.Duration {
	return time.Duration(r.number(name)) * time.Millisecond
}
func (r request) room() *unibus.Room { return client.Room(r.text("room")) }

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

var lines = make(chan object) // to standard output, in the order of those who wait

func (r request) reply(ok any, err error) {
	line := object{"id": r["id"], "ok": ok}
	if err != nil {
		line = object{"id": r["id"], "error": describe(err)}
	}
	lines <- line
}

func main() {
	go func() {
		for output := json.NewEncoder(os.Stdout); ; {
			output.Encode(<-lines)
		}
	}()
	queues := map[string]chan func(){} // what is done with a publisher, in the order of the requests
	for input, r := json.NewDecoder(os.Stdin), (request)(nil); input.Decode(&r) == nil; r = nil {
		operation, name := operations[r.text("op")], r.text("publisher")
		switch {
		case operation == nil:
			r.reply(object{}, errors.New("unknown op "+r.text("op")))
		case r.text("op") == "connect":
			operation(r)
		case name == "":
			go operation(r)
		default:
			if queues[name] == nil {
				queues[name] = make(chan func(), 1<<20)
				go func(queue chan func()) {
					for next := range queue {
						next()
					}
				}(queues[name])
			}
			queues[name] <- func() { operation(r) }
		}
	}
	if client != nil {
		time.AfterFunc(3*time.Second, func() { os.Exit(0) })
		client.Close()
	}
}

func describe(err error) object {
	var e *unibus.Error
	switch {
	case errors.As(err, &e):
		fields := []string{}
		for _, f := range e.Fields {
			fields = append(fields, f.Field)
		}
		return object{"code": code.Code(e.Code).String(), "reason": e.Reason, "class": strings.ReplaceAll(e.Class.String(), " ", "_"),
			"message": e.Error(), "outcome_unknown": e.OutcomeUnknown, "cancelled": false, "metadata": e.Metadata, "fields": fields}
	case errors.Is(err, errHandler):
		return object{"code": "HANDLER", "cancelled": false, "message": err.Error()}
	case errors.Is(err, context.Canceled), errors.Is(err, unibus.ErrClosed):
		return object{"code": "CANCELLED", "cancelled": true, "message": err.Error()}
	}
	return object{"code": "ADAPTER", "message": err.Error()}
}

func describeEvent(e unibus.Event) object {
	switch e := e.(type) {
	case unibus.Opened:
		return object{"type": "opened", "position": decimal(e.Position), "resumed": e.Resumed}
	case unibus.CaughtUp:
		return object{"type": "caught_up", "position": decimal(e.Position)}
	case unibus.Gap:
		return object{"type": "gap", "from": decimal(e.From), "to": decimal(e.To), "dropped": decimal(e.Dropped),
			"reason": strings.TrimPrefix(e.Reason.String(), "GAP_REASON_")}
	case unibus.Moved:
		return object{"type": "moved", "position": decimal(e.Position)}
	case unibus.Disconnected:
		return object{"type": "disconnected", "error": describe(e.Err), "pause_ms": e.Pause.Milliseconds()}
	}
	return object{"type": "recreated"}
}
