// The probe in Go: does what its event says, as `tests/sdk/behaviour/__init__.py` describes it. One program with AWS's
// runtime client (lambda.go), and one that is a command of WASI (wasi.go).
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

type object = map[string]any

var calls int

func number(event object, name string) int {
	value, _ := event[name].(float64)
	return int(value)
}

func files(who string) (any, error) {
	notes, _ := os.ReadFile("/tmp/notes")
	notes = append(notes, 'x')
	if err := os.WriteFile("/tmp/notes", notes, 0o644); err != nil {
		return nil, err
	}
	folder, _ := os.Getwd()
	data, err := os.ReadFile("/var/task/data.txt")
	refused := os.WriteFile("/var/task/new", nil, 0o644) != nil
	return object{"who": who, "folder": folder, "notes": len(notes), "refused": refused, "data": string(data)}, err
}

func variables() object {
	found := object{}
	for _, pair := range os.Environ() {
		name, value, _ := strings.Cut(pair, "=")
		found[name] = value
	}
	return found
}

func allocate() {
	for held := [][]byte{}; ; {
		block := make([]byte, 8<<20)
		for at := 0; at < len(block); at += 1024 {
			block[at] = 1
		}
		held = append(held, block)
	}
}

func say(lines []any) {
	for _, line := range lines {
		fmt.Fprintln(out, line)
	}
	fmt.Fprintln(os.Stderr, "to stderr")
}

func act(in any, who string, context func() object) (any, error) {
	calls++
	event, _ := in.(object)
	if event["requestContext"] != nil {
		headers := object{"content-type": "application/octet-stream"}
		return object{"statusCode": 200, "headers": headers, "isBase64Encoded": true, "body": event["body"]}, nil
	}
	switch event["do"] {
	case "raise", "exit", "signal", "spin", "allocate":
		fmt.Fprintln(out, "at", who)
	}
	switch event["do"] {
	case "raise":
		return nil, errors.New(event["message"].(string))
	case "panic":
		panic(event["message"])
	case "exit":
		os.Exit(number(event, "code"))
	case "signal":
		signal(number(event, "number"))
	case "allocate":
		allocate()
	case "spin":
		for {
		}
	case "sleep", "count":
		time.Sleep(time.Duration(number(event, "ms")) * time.Millisecond)
		return object{"who": who, "calls": calls}, nil
	case "environment":
		return variables(), nil
	case "context":
		return context(), nil
	case "print":
		say(event["lines"].([]any))
		return nil, nil
	case "large":
		return strings.Repeat("x", number(event, "bytes")), nil
	case "files":
		return files(who)
	}
	return in, nil
}

func begin(fail func(string)) {
	switch os.Getenv("PROBE_INIT") {
	case "raise":
		fail("at the start")
	case "exit":
		os.Exit(5)
	case "hang":
		time.Sleep(time.Minute)
	}
}
