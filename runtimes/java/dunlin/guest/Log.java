package dunlin.guest;

import com.amazonaws.services.lambda.runtime.api.client.logging.LogSink;
import com.amazonaws.services.lambda.runtime.logging.LogFormat;
import com.amazonaws.services.lambda.runtime.logging.LogLevel;
import java.io.PrintStream;
import java.util.Arrays;

/**
 * Where the client's logger writes to: each record is one event of the log, however many lines it has. It goes where
 * `System.out` writes to, so that the order is kept.
 */
final class Log implements LogSink {
    /** Before an event: ends the line that was begun, if there is one (crates/compute/src/output.rs). */
    private static final byte[] MARK = {0x1e, '\n'};

    private final PrintStream out = System.out;

    @Override
    public void log(byte[] message) {
        byte[] event = event(message);
        synchronized (out) {
            out.write(event, 0, event.length);
            out.flush();
        }
    }

    @Override
    public void log(LogLevel level, LogFormat format, byte[] message) {
        log(message);
    }

    @Override
    public void close() {}

    /** The record between its mark and its end; ends of lines within it are carriage returns. */
    private static byte[] event(byte[] message) {
        int length = message.length;
        if (length > 0 && message[length - 1] == '\n') length--;
        byte[] event = new byte[MARK.length + length + 1];
        System.arraycopy(MARK, 0, event, 0, MARK.length);
        int at = MARK.length;
        for (int index = 0; index < length; index++) {
            boolean ends = message[index] == '\n';
            if (ends && index > 0 && message[index - 1] == '\r') continue;
            event[at++] = ends ? (byte) '\r' : message[index];
        }
        event[at++] = '\n';
        return at == event.length ? event : Arrays.copyOf(event, at);
    }
}
