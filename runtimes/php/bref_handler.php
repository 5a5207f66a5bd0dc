<?php

// The interface of handlers that were written for Bref and do not bring it; where they do, its own goes first.

declare(strict_types=1);

namespace Bref\Event;

use Bref\Context\Context;

/** A handler that is an object. */
interface Handler
{
    public function handle(mixed $event, Context $context);
}
