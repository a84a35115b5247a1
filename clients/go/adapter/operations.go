package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	unibus "github.com/unibus-rs/unibus/clients/go"
	"github.com/unibus-rs/unibus/clients/go/examples/encryption"
	"github.com/unibus-rs/unibus/clients/go/unibusv1"
)

// object is a JSON object.
type object map[string]any

func (o object) text(name string) string { s, _ := o[name].(string); return s }
func (o object) flag(name string) bool   { b, _ := o[name].(bool); return b }
func (o object) has(name string) bool    { return o[name] != nil }
func (o object) bytes(name string) []byte {
	b, _ := base64.StdEncoding.DecodeString(o.text(name))
	return b
}
func (o object) number(name string) uint64 {
	if f, ok := o[name].(float64); ok {
		return uint64(f)
	}
	n, _ := strconv.ParseUint(o.text(name), 10, 64)
	return n
}
func (o object) time(name string) time.Time {
	t, _ := time.Parse(time.RFC3339Nano, o.text(name))
	return t
}
func (o object) milliseconds(name string) time.Duration {
	return time.Duration(o.number(name)) * time.Millisecond
}

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

func connect(r object) (*unibus.Client, error) {
	opts := []unibus.Option{}
	if r.has("ca") {
		opts = append(opts, unibus.WithCAFile(r.text("ca")))
	}
	if r.has("cert") {
		opts = append(opts, unibus.WithCertificateFiles(r.text("cert"), r.text("key")))
	}
	if r.has("token") {
		opts = append(opts, unibus.WithToken(r.text("token")))
	}
	if r.has("token_file") {
		opts = append(opts, unibus.WithTokenFunc(func(context.Context) (string, error) {
			token, err := os.ReadFile(r.text("token_file"))
			return strings.TrimSpace(string(token)), err
		}))
	}
	if r.flag("plaintext_token") {
		opts = append(opts, unibus.WithPlaintextToken())
	}
	if r.has("attempt_ms") {
		opts = append(opts, unibus.WithAttemptTimeout(r.milliseconds("attempt_ms")))
	}
	if r.has("total_ms") {
		opts = append(opts, unibus.WithCallTimeout(r.milliseconds("total_ms")))
	}
	return unibus.Dial(r.text("address"), opts...)
}

func place(start any) unibus.Start {
	s, _ := start.(map[string]any)
	o := object(s)
	switch {
	case o.has("all"):
		return unibus.FromAll()
	case o.has("new"):
		return unibus.FromNew()
	case o.has("after_sequence"):
		return unibus.FromAfter(o.number("after_sequence"))
	case o.has("after_cursor"):
		return unibus.FromAfterCursor(o.text("after_cursor"))
	case o.has("since"):
		return unibus.FromTime(o.time("since"))
	case o.has("last"):
		return unibus.FromLast(o.number("last"))
	}
	return unibus.Start{}
}

func messageOptions(r object) (opts []unibus.PublishOption) {
	if r.has("message_id") {
		opts = append(opts, unibus.WithMessageID(r.text("message_id")))
	}
	if r.has("expected_last_sequence") {
		opts = append(opts, unibus.WithExpectedLastSequence(r.number("expected_last_sequence")))
	}
	if headers, ok := r["headers"].(map[string]any); ok {
		texts := map[string]string{}
		for name, value := range headers {
			texts[name] = fmt.Sprint(value)
		}
		opts = append(opts, unibus.WithHeaders(texts))
	}
	return opts
}

func subscribe(ctx context.Context, room *unibus.Room, r object, stop <-chan struct{}) error {
	line := func(kind string, value any) { write(object{"sub": r["sub"], kind: value}) }
	opts := []unibus.SubscribeOption{unibus.WithStart(place(r["start"])), unibus.WithStop(stop),
		unibus.WithEvents(func(e unibus.Event) { line("event", event(e)) }), unibus.WithConcurrency(int(r.number("concurrency")))}
	if r.flag("until_caught_up") {
		opts = append(opts, unibus.UntilCaughtUp())
	}
	if r.has("prefetch") {
		opts = append(opts, unibus.WithReadAhead(uint32(r.number("prefetch")), 4<<20))
	}
	handler := func(_ context.Context, m *unibus.Message) error {
		output <- struct{}{} // first of all, so that the lines show in which order handlers begin
		writeLocked(object{"sub": r["sub"], "message": object{"sequence": decimal(m.Sequence), "payload": m.Payload, "headers": m.Headers, "message_id": m.MessageID,
			"sender": m.Sender, "cursor": m.Cursor, "published_at": m.PublishedAt.Format("2006-01-02T15:04:05.000000000Z")}})
		<-output
		time.Sleep(r.milliseconds("handler_ms"))
		if r.has("fail_at") && m.Sequence == r.number("fail_at") {
			return errHandler
		}
		line("done", decimal(m.Sequence))
		return nil
	}
	if !r.flag("iterator") {
		return room.Subscribe(ctx, r.text("subscriber"), handler, opts...)
	}
	for m, err := range room.Messages(ctx, r.text("subscriber"), opts...) {
		if err == nil {
			err = handler(ctx, m)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func history(room *unibus.Room, r object) (object, error) {
	opts := []unibus.HistoryOption{unibus.After(r.number("after_sequence")), unibus.Before(r.number("before_sequence")),
		unibus.Since(r.time("start_time")), unibus.Until(r.time("end_time")), unibus.WithPageSize(int(r.number("page_size")))}
	if r.text("direction") == "backwards" {
		opts = append(opts, unibus.Backwards())
	}
	count, first, last, ordered, digest := uint64(0), uint64(0), uint64(0), true, sha256.New()
	for m, err := range room.History(ctx, opts...) {
		if err != nil {
			return nil, err
		}
		if count == 0 {
			first = m.Sequence
		} else if m.Sequence == last || m.Sequence < last != (r.text("direction") == "backwards") {
			ordered = false
		}
		last = m.Sequence
		fmt.Fprintf(digest, "%d\n%s", m.Sequence, m.Payload)
		if count++; r.has("max") && count == r.number("max") {
			break
		}
	}
	return object{"count": decimal(count), "first": decimal(first), "last": decimal(last), "ordered": ordered,
		"digest": hex.EncodeToString(digest.Sum(nil))}, nil
}

func call(client *unibus.Client, handle func() *unibus.Room, r object) (object, error) {
	switch r.text("op") {
	case "hello":
		library := object{}
		build, _ := debug.ReadBuildInfo()
		for _, d := range build.Deps {
			library[d.Path] = d.Version
		}
		return object{"language": "go", "runtime": runtime.Version(), "library": library}, nil
	case "seal":
		sealed, err := encryption.Seal(r.bytes("key"), r.text("room"), r.text("sender"), r.bytes("payload"))
		return object{"sealed": sealed}, err
	case "open":
		payload, err := encryption.Open(r.bytes("key"), r.text("room"), r.text("sender"), r.bytes("sealed"))
		return object{"payload": payload}, err
	case "close":
		return nil, client.Close()
	case "create_room":
		opts := []unibus.RoomOption{}
		if !r.flag("persist") {
			opts = append(opts, unibus.Ephemeral())
		}
		if r.has("dedupe_window_ms") {
			opts = append(opts, unibus.WithDedupeWindow(r.milliseconds("dedupe_window_ms")))
		}
		if r.has("max_messages") || r.has("max_age_ms") {
			opts = append(opts, unibus.WithRetention(unibus.Retention{MaxMessages: int64(r.number("max_messages")), MaxAge: r.milliseconds("max_age_ms")}))
		}
		room, err := client.CreateRoom(ctx, r.text("room"), opts...)
		if err != nil {
			return nil, err
		}
		return object{"room": room.ID()}, nil
	}
	room := handle()
	switch r.text("op") {
	case "get_room":
		info, err := room.Info(ctx)
		if err != nil {
			return nil, err
		}
		ok := object{"persist": info.Persist, "dedupe_window_ms": info.DedupeWindow.Milliseconds()}
		if s := info.State; s != nil {
			ok["first_sequence"], ok["last_sequence"], ok["messages"] = decimal(s.FirstSequence), decimal(s.LastSequence), decimal(s.Messages)
		}
		return ok, nil
	case "delete_room":
		return nil, room.Delete(ctx)
	case "purge_room":
		if r.has("up_to") {
			return nil, room.PurgeUpTo(ctx, r.number("up_to"))
		}
		return nil, room.Purge(ctx)
	case "delete_message":
		return nil, room.DeleteMessage(ctx, r.number("sequence"))
	case "publish":
		limited, cancel := ctx, context.CancelFunc(func() {})
		if r.has("timeout_ms") {
			limited, cancel = context.WithTimeout(ctx, r.milliseconds("timeout_ms"))
		}
		defer cancel()
		published, err := room.Publish(limited, r.bytes("payload"), messageOptions(r)...)
		return answer(published), err
	case "history":
		return history(room, r)
	case "add_member":
		role := unibus.Role(unibusv1.Role_value["ROLE_"+strings.ToUpper(r.text("role"))])
		return nil, room.AddMember(ctx, unibus.Member{ID: r.text("member"), Role: role})
	case "remove_member":
		return nil, room.RemoveMember(ctx, r.text("member"))
	case "list_members":
		members := []object{}
		for m, err := range room.Members(ctx) {
			if err != nil {
				return nil, err
			}
			members = append(members, object{"member": m.ID, "role": strings.ToLower(strings.TrimPrefix(m.Role.String(), "ROLE_"))})
		}
		return object{"members": members}, nil
	case "seek":
		position, err := room.SeekSubscriber(ctx, r.text("subscriber"), place(r["start"]))
		return object{"position": decimal(position)}, err
	case "list_subscribers":
		subscribers := []object{}
		for s, err := range room.Subscribers(ctx) {
			if err != nil {
				return nil, err
			}
			subscribers = append(subscribers, object{"subscriber": s.Name, "position": decimal(s.Position), "lag": decimal(s.Lag), "open": s.Open})
		}
		return object{"subscribers": subscribers}, nil
	}
	return nil, fmt.Errorf("unknown op %q", r.text("op"))
}
