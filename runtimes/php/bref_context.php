<?php

// The context of handlers that were written for Bref and do not bring it; where they do, its own class goes first.

declare(strict_types=1);

namespace Bref\Context;

/** What a handler gets as its second argument. */
final class Context implements \JsonSerializable
{
    public function __construct(
        private string $awsRequestId,
        private int $deadlineMs,
        private string $invokedFunctionArn,
        private string $traceId,
    ) {
    }

    public function getAwsRequestId(): string
    {
        return $this->awsRequestId;
    }

    public function getRemainingTimeInMillis(): int
    {
        return $this->deadlineMs - (int) (microtime(true) * 1000);
    }

    public function getInvokedFunctionArn(): string
    {
        return $this->invokedFunctionArn;
    }

    public function getTraceId(): string
    {
        return $this->traceId;
    }

    public function jsonSerialize(): array
    {
        return get_object_vars($this);
    }
}
