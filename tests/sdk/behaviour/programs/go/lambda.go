//go:build !wasip1

package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
)

var out = os.Stdout

func signal(number int) {
	syscall.Kill(syscall.Getpid(), syscall.Signal(number))
	time.Sleep(5 * time.Second)
}

func facts(ctx context.Context) object {
	told, _ := lambdacontext.FromContext(ctx)
	deadline, _ := ctx.Deadline()
	var client any
	if told.ClientContext.Custom != nil {
		client = told.ClientContext.Custom
	}
	return object{
		"id": told.AwsRequestID, "name": lambdacontext.FunctionName, "version": lambdacontext.FunctionVersion,
		"memory": strconv.Itoa(lambdacontext.MemoryLimitInMB), "arn": told.InvokedFunctionArn, "group": lambdacontext.LogGroupName,
		"stream": lambdacontext.LogStreamName, "left": time.Until(deadline).Milliseconds(), "client": client,
	}
}

// What is written in pieces.
func pieces(_ context.Context, event object) (io.Reader, error) {
	from, to := io.Pipe()
	go func() {
		to.Write([]byte("first "))
		time.Sleep(time.Duration(number(event, "ms")) * time.Millisecond)
		to.Write([]byte("last"))
		to.Close()
	}()
	return from, nil
}

func main() {
	begin(func(words string) { panic(words) })
	if os.Args[len(os.Args)-1] == "stream" || os.Getenv("_HANDLER") == "stream" {
		lambda.Start(pieces)
	}
	random := make([]byte, 16)
	rand.Read(random)
	who := hex.EncodeToString(random)
	lambda.Start(func(ctx context.Context, raw json.RawMessage) (any, error) {
		var event any
		if err := json.Unmarshal(raw, &event); err != nil {
			return nil, err
		}
		return act(event, who, func() object { return facts(ctx) })
	})
}
