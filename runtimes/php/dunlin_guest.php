<?php

// The managed PHP guest: it loads one handler and answers invocations, one at a time.
//
// It speaks the frames of `crates/compute/src/guest_protocol.rs` on descriptor 3, by blocking reads and writes. Runs on
// PHP 8.0 and later, with what is always in PHP; `pcntl` makes processes anew. Handlers have Bref's shape, which is what
// PHP on Lambda is written for: a file that returns a callable or an object, and what Bref's own classes add to that.
//
// Invariants
//   1. Every INVOKE is answered by exactly one RESPONSE or ERROR, or the process ends.
//   2. Nothing but frames is written to descriptor 3; nothing of the guest's own goes to the output, log lines apart.
//   3. Code of a function runs in forks only, where there is `pcntl`: one serves `BREF_LOOP_MAX` invocations (one, if not
//      said), or until one fails. The process that forks them has no function; it ends as a fork ends that should not have.
//   4. There are as many processes before the function is loaded as after it: that tells the platform what could run
//      between calls.
//
// Start reading at `Guest::run`. The order is: channel, errors, logs, handler, guest.

declare(strict_types=1);

namespace Dunlin;

const LOAD = 1;
const INVOKE = 2;
const BOOTED = 15;
const READY = 16;
const INIT_ERROR = 17;
const RESPONSE = 18;
const ERROR = 19;
// The channel keeps the bounds of writes: none is longer, and every read has room for one.
const MESSAGE_BYTES = 32 * 1024;
const READ_BYTES = 64 * 1024;
// 6 MiB, and what Lambda allows beyond.
const PAYLOAD_BYTES_MAX = 6291556;
const JSON_TYPE = 'application/json';
/** Before an event of the log: ends the line that was begun, if there is one (`crates/compute/src/output.rs`). */
const RECORD_MARK = "\x1e\n";
// What a fork says before it ends: another is to follow it, the settings of the package are to be read, all is over.
const NEXT = 'n';
const SETTINGS = 's';
const OVER = 'o';
// Settings of PHP that a package brings.
const SETTINGS_FOLDER = 'php/conf.d';
// Most forks that end beside the one that serves.
const ENDING_MAX = 4;
const CONSOLE_BYTES = 5 * 1024 * 1024;

/** Frames on descriptor 3. */
final class Channel
{
    /** @var resource */
    private $stream;
    private string $rest = '';

    public function __construct()
    {
        $stream = fopen('php://fd/3', 'r+b');
        if ($stream === false) {
            throw new \RuntimeException('descriptor 3 cannot be opened');
        }
        $this->stream = $stream;
        // One read is one message, and waits as long as it takes.
        stream_set_read_buffer($stream, 0);
        stream_set_write_buffer($stream, 0);
        stream_set_timeout($stream, 1 << 30);
    }

    /**
     * The next frame's kind and body, or null when the platform has closed the channel.
     *
     * @return array{int, string}|null
     */
    public function read(): ?array
    {
        if (!$this->fill(4)) {
            return null;
        }
        $end = 4 + unpack('V', $this->rest)[1];
        if (!$this->fill($end)) {
            return null;
        }
        $frame = substr($this->rest, 0, $end);
        $this->rest = substr($this->rest, $end);
        return [ord($frame[4]), substr($frame, 5)];
    }

    /** Writes one frame, in messages of at most `MESSAGE_BYTES`. */
    public function write(int $kind, string ...$parts): void
    {
        $body = implode('', $parts);
        $frame = pack('VC', strlen($body) + 1, $kind) . $body;
        for ($at = 0, $end = strlen($frame); $at < $end; $at += $written) {
            $written = fwrite($this->stream, substr($frame, $at, MESSAGE_BYTES));
            if ($written === false) {
                throw new \RuntimeException('the channel is closed');
            }
        }
    }

    private function fill(int $count): bool
    {
        while (strlen($this->rest) < $count) {
            $more = fread($this->stream, READ_BYTES);
            if (($more === '' || $more === false) && feof($this->stream)) {
                return false;
            }
            $this->rest .= $more;
        }
        return true;
    }
}

/** An error that the guest itself raises, with a type of Lambda's. */
final class Fault extends \Exception
{
    public function __construct(public string $kind, string $message)
    {
        parent::__construct($message);
    }
}

/** Error documents, as callers receive them. */
final class Errors
{
    private const TOO_LARGE = 'Function.ResponseSizeTooLarge';

    /** @return array{errorType: string, errorMessage: string, stackTrace?: list<string>} */
    public static function document(\Throwable $error): array
    {
        $kind = $error instanceof Fault ? $error->kind : get_class($error);
        if ($kind === self::TOO_LARGE) {
            return ['errorType' => $kind, 'errorMessage' => $error->getMessage()];
        }
        $own = fn (string $line): bool => !str_contains($line, __DIR__) && !str_ends_with($line, ' {main}');
        $trace = $error instanceof Fault ? [] : array_filter(explode("\n", $error->getTraceAsString()), $own);
        if (!$error instanceof Fault) {
            array_unshift($trace, "{$error->getFile()}({$error->getLine()})");
        }
        return ['errorType' => $kind, 'errorMessage' => $error->getMessage(), 'stackTrace' => array_values($trace)];
    }

    /** The document's JSON, never longer than a payload may be. */
    public static function encode(array $document): string
    {
        $json = json_encode($document, JSON_INVALID_UTF8_SUBSTITUTE | JSON_PARTIAL_OUTPUT_ON_ERROR);
        return strlen($json) > PAYLOAD_BYTES_MAX ? json_encode(self::document(self::tooLarge())) : $json;
    }

    /** An answer that is longer than a payload may be: it is the platform that refuses it, for every runtime in the same words. */
    public static function tooLarge(): Fault
    {
        $words = 'Response payload size exceeded maximum allowed payload size (' . PAYLOAD_BYTES_MAX . ' bytes).';
        return new Fault(self::TOO_LARGE, $words);
    }
}

/** Log lines of the guest's own: what a function prints is its own affair. */
final class Logs
{
    public static function failure(string $title, array $document, ?string $requestId): void
    {
        if (strcasecmp((string) getenv('AWS_LAMBDA_LOG_FORMAT'), 'JSON') === 0) {
            $at = \DateTime::createFromFormat('U.u', sprintf('%.6F', microtime(true)))->format('Y-m-d\TH:i:s.v\Z');
            $record = ['timestamp' => $at, 'level' => 'ERROR', 'message' => $title];
            echo RECORD_MARK, Errors::encode($record + ($requestId === null ? [] : ['requestId' => $requestId]) + $document), "\n";
            return;
        }
        echo RECORD_MARK, $requestId === null ? '' : "$requestId\t", "$title\t", Errors::encode($document), "\n";
    }
}

/** What a handler string means, and what its result is. */
final class Handler
{
    private function __construct(private mixed $target)
    {
    }

    /** The handler that a string names: a file that returns it, else an object of the function's own container, or a class. */
    public static function load(string $root, string $name): self
    {
        spl_autoload_register(static function (string $class): void {
            $own = ['Bref\Context\Context' => 'bref_context.php', 'Bref\Event\Handler' => 'bref_handler.php'];
            if (isset($own[$class])) {
                require __DIR__ . "/{$own[$class]}";
            }
        });
        if (is_file("$root/vendor/autoload.php")) {
            self::file("$root/vendor/autoload.php");
        }
        self::hook('beforeStartup');
        $kind = (string) getenv('BREF_RUNTIME');
        if ($kind === 'console' || str_ends_with($kind, 'ConsoleRuntime\Main')) {
            $target = self::console("$root/$name");
        } elseif (class_exists('Bref\Bref') && method_exists('Bref\Bref', 'getContainer')) {
            $target = \Bref\Bref::getContainer()->get($name);
        } else {
            $target = self::named($root, $name);
        }
        $handler = new self(self::adapted($target, $name));
        self::hook('afterStartup');
        return $handler;
    }

    public function call(mixed $event, object $context): mixed
    {
        self::hook('beforeInvoke', $this->target, $event, $context);
        $target = $this->target;
        $result = is_object($target) && is_a($target, 'Bref\Event\Handler')
            ? $target->handle($event, $context)
            : $target($event, $context);
        self::hook('afterInvoke', $this->target, $event, $context, $result);
        return $result;
    }

    private static function named(string $root, string $name): mixed
    {
        if (is_file("$root/$name")) {
            return self::file("$root/$name");
        }
        if (!str_ends_with($name, '.php') && class_exists($name)) {
            return new $name();
        }
        throw new Fault('Runtime.HandlerNotFound', "The handler $name is no file in $root, and no class that can be loaded");
    }

    private static function adapted(mixed $target, string $name): mixed
    {
        if (is_object($target) && is_a($target, 'Psr\Http\Server\RequestHandlerInterface') && class_exists('Bref\Event\Http\Psr15Handler')) {
            return new \Bref\Event\Http\Psr15Handler($target);
        }
        if (is_callable($target) || (is_object($target) && is_a($target, 'Bref\Event\Handler'))) {
            return $target;
        }
        $what = get_debug_type($target);
        throw new Fault('Runtime.HandlerNotFound', "The handler $name must return a function or an object that handles events, and returns $what");
    }

    /** What a file returns; it sees no variables of the guest's. */
    private static function file(string $path): mixed
    {
        return (static fn () => require func_get_arg(0))($path);
    }

    /** Runs the handler's file as a command whose arguments are the event. */
    private static function console(string $path): \Closure
    {
        if (!is_file($path)) {
            throw new Fault('Runtime.HandlerNotFound', "The handler $path is no file");
        }
        return static function (mixed $event) use ($path): array {
            $line = is_array($event) ? (string) ($event['cli'] ?? '') : (is_string($event) ? $event : '');
            $command = escapeshellarg(PHP_BINARY) . ' ' . escapeshellarg($path) . " $line 2>&1";
            $process = proc_open(['/bin/sh', '-c', $command], [1 => ['pipe', 'w']], $pipes);
            if ($process === false) {
                throw new \RuntimeException('the command cannot be started');
            }
            $output = '';
            while (!feof($pipes[1])) {
                $piece = (string) fread($pipes[1], READ_BYTES);
                echo $piece;
                $output = substr($output . $piece, -CONSOLE_BYTES);
            }
            $code = proc_close($process);
            return $code === 0 ? ['exitCode' => 0, 'output' => $output] : throw new \RuntimeException($output);
        };
    }

    /** Tells Bref's own listeners, where a function has them. */
    private static function hook(string $name, mixed ...$arguments): void
    {
        if (class_exists('Bref\Bref', false) && method_exists('Bref\Bref', 'events')) {
            \Bref\Bref::events()->$name(...$arguments);
        }
    }
}

/** The life of the process. */
final class Guest
{
    private Channel $channel;
    private ?Handler $handler = null;
    /** Forks that are done and may not have ended. */
    private int $ending = 0;

    public function run(): int
    {
        $this->channel = new Channel();
        // A process that was started again for the settings of its function.
        $order = getenv('_DUNLIN_ORDER');
        $order = $order === false ? null : json_decode($order, true, 512, JSON_THROW_ON_ERROR);
        foreach (['_DUNLIN_ORDER', '_DUNLIN_AHEAD'] as $name) {
            putenv($name);
            unset($_SERVER[$name], $_ENV[$name]);
        }
        if (!function_exists('pcntl_fork')) {
            return $this->generation($order, true, PHP_INT_MAX)[0] === OVER ? 0 : 1;
        }
        pcntl_signal(SIGCHLD, static fn () => null, false);
        for ($first = true; true; $first = false) {
            [$word, $rest, $code] = $this->forked($order, $first);
            if ($word === OVER) {
                return 0;
            }
            $order ??= json_decode($rest, true);
            if ($word === SETTINGS) {
                $this->again($order);
            }
            if ($word !== NEXT) {
                return $code;
            }
        }
    }

    /**
     * Runs a generation in a fork; what it said at its end, what it brought, and its exit code where it said nothing. One
     * that has said it ends beside the next: PHP takes milliseconds for that.
     *
     * @return array{string, string, int}
     */
    private function forked(?array $order, bool $first): array
    {
        while ($this->ending > 0 && pcntl_waitpid(-1, $status, $this->ending < ENDING_MAX ? WNOHANG : 0) > 0) {
            $this->ending--;
        }
        $pair = stream_socket_pair(STREAM_PF_UNIX, STREAM_SOCK_STREAM, 0);
        $pid = pcntl_fork();
        if ($pid === 0) {
            pcntl_signal(SIGCHLD, SIG_DFL);
            fclose($pair[0]);
            [$word, $order] = $this->generation($order, $first, null);
            fwrite($pair[1], $word . ($first ? json_encode($order, JSON_THROW_ON_ERROR) : '') . "\n");
            exit(0);
        }
        fclose($pair[1]);
        [$said, $status] = $pid < 0 ? ['', null] : $this->heard($pair[0], $pid);
        $this->ending += $pid > 0 && $status === null ? 1 : 0;
        if ($status !== null && pcntl_wifsignaled($status)) {
            $this->endBy(pcntl_wtermsig($status));
        }
        return [substr($said, 0, 1), substr($said, 1), $status === null ? 1 : pcntl_wexitstatus($status)];
    }

    /**
     * Waits until a fork has said how it ends, or has ended: its line, and its status. Programs that it has started may hold
     * its end of the pair for longer.
     *
     * @param resource $pair
     * @return array{string, ?int}
     */
    private function heard($pair, int $pid): array
    {
        stream_set_blocking($pair, false);
        stream_set_read_buffer($pair, 0);
        for ($said = ''; true;) {
            $status = 0;
            $ended = pcntl_waitpid($pid, $status, feof($pair) ? 0 : WNOHANG) === $pid;
            $said .= (string) fread($pair, READ_BYTES);
            if (str_ends_with($said, "\n") || $ended) {
                return [$said, $ended ? $status : null];
            }
            [$read, $write, $except] = [[$pair], null, null];
            // The end of the fork interrupts it.
            @stream_select($read, $write, $except, null);
        }
    }

    /** Ends as a fork did that was killed. */
    private function endBy(int $signal): never
    {
        if (function_exists('posix_kill')) {
            posix_kill(getmypid(), $signal);
        }
        exit(128 + $signal);
    }

    /** Starts this program again, which reads the settings of the function's package then. */
    private function again(array $order): never
    {
        $line = explode("\0", rtrim((string) file_get_contents('/proc/self/cmdline'), "\0"));
        $folder = $order['root'] . '/' . SETTINGS_FOLDER;
        $scan = getenv('PHP_INI_SCAN_DIR');
        $environment = ['PHP_INI_SCAN_DIR' => ($scan === false ? '' : $scan) . ":$folder", '_DUNLIN_ORDER' => json_encode($order)];
        pcntl_exec(PHP_BINARY, array_slice($line, 1), $environment + getenv());
        exit(1);
    }

    /**
     * Loads the handler and answers invocations; what is to follow, and the order of the function.
     *
     * @return array{string, ?array}
     */
    private function generation(?array $order, bool $first, ?int $most): array
    {
        if ($order === null) {
            $this->channel->write(BOOTED);
            $frame = $this->channel->read();
            if ($frame === null) {
                return [OVER, null];
            }
            $order = json_decode($frame[1], true, 512, JSON_THROW_ON_ERROR);
            if (function_exists('pcntl_exec') && glob($order['root'] . '/' . SETTINGS_FOLDER . '/*.ini')) {
                return [SETTINGS, $order];
            }
        }
        $this->load($order);
        if ($first) {
            $this->channel->write(READY);
        }
        $most ??= max(1, (int) (getenv('BREF_LOOP_MAX') ?: 1));
        while ($most-- > 0) {
            $frame = $this->channel->read();
            if ($frame === null) {
                return [OVER, $order];
            }
            if ($frame[0] !== INVOKE) {
                throw new \RuntimeException("unexpected frame of kind {$frame[0]}");
            }
            $end = 4 + unpack('V', $frame[1])[1];
            $meta = json_decode(substr($frame[1], 4, $end - 4), true, 512, JSON_THROW_ON_ERROR);
            // What an error has left behind is nobody's to go on with.
            if (!$this->invoke($meta, substr($frame[1], $end)) && function_exists('pcntl_fork')) {
                break;
            }
        }
        return [NEXT, $order];
    }

    private function load(array $order): void
    {
        foreach ($order['environment'] as $name => $value) {
            $this->variable((string) $name, $value);
        }
        chdir($order['root']);
        try {
            $this->handler = Handler::load($order['root'], $order['handler']);
        } catch (\Throwable $error) {
            $document = Errors::document($error);
            Logs::failure('Init Error', $document, null);
            $this->flush();
            $this->channel->write(INIT_ERROR, Errors::encode($document));
            exit(1);
        }
    }

    /** Runs one invocation and sends its answer; whether it went well. */
    private function invoke(array $meta, string $text): bool
    {
        $began = hrtime(true);
        $id = $meta['requestId'];
        try {
            $data = $this->answer($meta, $text);
        } catch (\Throwable $error) {
            $document = Errors::document($error);
            $this->flush();
            Logs::failure('Invoke Error', $document, $id);
            $this->channel->write(ERROR, Errors::encode($document));
            return false;
        }
        $this->flush();
        $took = min(intdiv(hrtime(true) - $began, 1000), 0xFFFFFFFF);
        $this->channel->write(RESPONSE, pack('VV', $took, strlen(JSON_TYPE)), JSON_TYPE, $data);
        return true;
    }

    private function answer(array $meta, string $text): string
    {
        $event = $text === '' ? [] : json_decode($text, true, 512, JSON_THROW_ON_ERROR);
        $trace = $meta['traceId'] ?? '';
        $context = new \Bref\Context\Context($meta['requestId'], $meta['deadlineMs'], $meta['functionArn'] ?? '', $trace);
        $this->variable('LAMBDA_INVOCATION_CONTEXT', json_encode($context, JSON_THROW_ON_ERROR));
        $this->variable('LAMBDA_REQUEST_ID', $meta['requestId']);
        $this->variable('_X_AMZN_TRACE_ID', $trace);
        $data = json_encode($this->handler->call($event, $context));
        if ($data === false) {
            $words = 'The response cannot be encoded to JSON: ' . json_last_error_msg();
            throw new Fault('Runtime.MarshalError', $words);
        }
        return strlen($data) > PAYLOAD_BYTES_MAX ? throw Errors::tooLarge() : $data;
    }

    private function variable(string $name, string $value): void
    {
        putenv("$name=$value");
        $_SERVER[$name] = $_ENV[$name] = $value;
    }

    /** What was printed is out before the answer is. */
    private function flush(): void
    {
        while (ob_get_level() > 0) {
            ob_end_flush();
        }
        flush();
    }
}
