// A function as a WASI command: the event comes on standard input, the answer goes to standard output, the log to
// standard error.
package main

import (
	"encoding/json"
	"fmt"
	"os"
)

func main() {
	var event struct {
		RawPath string `json:"rawPath"`
	}
	if err := json.NewDecoder(os.Stdin).Decode(&event); err != nil {
		fmt.Fprintln(os.Stderr, "the event is no JSON:", err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stderr, "called for", event.RawPath)
	json.NewEncoder(os.Stdout).Encode(map[string]any{
		"statusCode": 200,
		"headers":    map[string]string{"content-type": "text/plain"},
		"body":       fmt.Sprintf("Hello from WebAssembly, request %s\n", os.Getenv("AWS_REQUEST_ID")),
	})
}
