<?php

// The probe in PHP: a handler that does what its event says, as `tests/sdk/behaviour/__init__.py` describes it.

class ProbeError extends Exception {}

class Life
{
    public static string $who;
    public static int $calls = 0;
}

// A process is followed by another where a call has failed; the environment goes on, and its /tmp.
if (!file_exists('/tmp/who')) {
    file_put_contents('/tmp/who', bin2hex(random_bytes(16)));
}
Life::$who = file_get_contents('/tmp/who');

// The end of the initialisation, if the function's variables ask for one.
switch (getenv('PROBE_INIT')) {
    case 'raise': throw new ProbeError('at the start');
    case 'exit': exit(5);
    case 'hang': sleep(60);
}

function facts($context): array
{
    return [
        'id' => $context->getAwsRequestId(), 'name' => getenv('AWS_LAMBDA_FUNCTION_NAME'),
        'version' => getenv('AWS_LAMBDA_FUNCTION_VERSION'), 'memory' => getenv('AWS_LAMBDA_FUNCTION_MEMORY_SIZE'),
        'arn' => $context->getInvokedFunctionArn(), 'group' => getenv('AWS_LAMBDA_LOG_GROUP_NAME'),
        'stream' => getenv('AWS_LAMBDA_LOG_STREAM_NAME'), 'left' => $context->getRemainingTimeInMillis(),
        'client' => null,
    ];
}

function files(): array
{
    file_put_contents('/tmp/notes', 'x', FILE_APPEND);
    $refused = @file_put_contents('/var/task/new', '') === false;
    $notes = strlen(file_get_contents('/tmp/notes'));
    return ['who' => Life::$who, 'folder' => getcwd(), 'notes' => $notes, 'refused' => $refused, 'data' => file_get_contents('/var/task/data.txt')];
}

return function ($event, $context) {
    Life::$calls++;
    if (isset($event['requestContext'])) {
        $headers = ['content-type' => 'application/octet-stream'];
        return ['statusCode' => 200, 'headers' => $headers, 'isBase64Encoded' => true, 'body' => $event['body']];
    }
    $what = is_array($event) ? $event['do'] ?? null : null;
    if (in_array($what, ['raise', 'exit', 'signal', 'spin', 'allocate'], true)) {
        echo 'at ', Life::$who, "\n";
        flush();
    }
    switch ($what) {
        case 'raise': throw new ProbeError($event['message']);
        case 'exit': exit($event['code']);
        case 'signal': posix_kill(getmypid(), $event['number']);
        case 'allocate': for ($held = [];;) { $held[] = str_repeat('x', 8 << 20); }
        case 'spin': for (;;) {}
        case 'sleep': usleep($event['ms'] * 1000);
        case 'count': return ['who' => Life::$who, 'calls' => Life::$calls];
        case 'environment': return getenv();
        case 'context': return facts($context);
        case 'print':
            foreach ($event['lines'] as $line) {
                echo $line, "\n";
            }
            fwrite(STDERR, "to stderr\n");
            return null;
        case 'large': return str_repeat('x', $event['bytes']);
        case 'files': return files();
    }
    return $event;
};
