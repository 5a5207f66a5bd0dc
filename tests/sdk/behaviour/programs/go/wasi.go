//go:build wasip1

package main

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"
)

var out = os.Stderr

func signal(int) { panic("WASI has no signals") }

func facts() object {
	deadline, _ := strconv.ParseInt(os.Getenv("AWS_LAMBDA_DEADLINE_MS"), 10, 64)
	var client struct{ Custom object }
	json.Unmarshal([]byte(os.Getenv("AWS_LAMBDA_CLIENT_CONTEXT")), &client)
	return object{
		"id": os.Getenv("AWS_REQUEST_ID"), "name": os.Getenv("AWS_LAMBDA_FUNCTION_NAME"),
		"version": os.Getenv("AWS_LAMBDA_FUNCTION_VERSION"), "memory": os.Getenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE"),
		"arn": os.Getenv("AWS_LAMBDA_INVOKED_FUNCTION_ARN"), "group": os.Getenv("AWS_LAMBDA_LOG_GROUP_NAME"),
		"stream": os.Getenv("AWS_LAMBDA_LOG_STREAM_NAME"), "left": time.Until(time.UnixMilli(deadline)).Milliseconds(),
		"client": client.Custom,
	}
}

func fail(words string) {
	fmt.Fprintln(os.Stderr, words)
	os.Exit(1)
}

func main() {
	begin(fail)
	random := make([]byte, 16)
	rand.Read(random)
	var event any
	if err := json.NewDecoder(os.Stdin).Decode(&event); err != nil {
		fail(err.Error())
	}
	if os.Args[1] == "stream" {
		fmt.Print("first ")
		time.Sleep(time.Duration(number(event.(object), "ms")) * time.Millisecond)
		fmt.Print("last")
		return
	}
	answer, err := act(event, hex.EncodeToString(random), facts)
	if err != nil {
		fail(err.Error())
	}
	content, err := json.Marshal(answer)
	if err != nil {
		fail(err.Error())
	}
	os.Stdout.Write(content)
}
