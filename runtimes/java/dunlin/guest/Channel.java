package dunlin.guest;

import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.lang.reflect.Field;

/**
 * Frames on descriptor 3, by blocking reads and writes. It does not know what a frame means.
 *
 * The socket keeps the bounds of writes: a frame is written in messages of at most MESSAGE_BYTES, and every read has room
 * for a whole one. Java opens no descriptor by its number, so that its field is set (the command line opens java.io).
 */
final class Channel {
    static final int LOAD = 1;
    static final int INVOKE = 2;
    static final int BOOTED = 15;
    static final int READY = 16;
    static final int INIT_ERROR = 17;
    static final int RESPONSE = 18;
    static final int ERROR = 19;

    private static final int DESCRIPTOR = 3;
    private static final int MESSAGE_BYTES = 32 * 1024;
    private static final int HEADER_BYTES = 5;

    /** One frame. */
    static final class Frame {
        final int kind;
        final byte[] body;

        Frame(int kind, byte[] body) {
            this.kind = kind;
            this.body = body;
        }
    }

    private final FileInputStream in;
    private final FileOutputStream out;
    private final byte[] message = new byte[2 * MESSAGE_BYTES];
    private int start;
    private int end;

    Channel() throws ReflectiveOperationException {
        FileDescriptor descriptor = new FileDescriptor();
        Field number = FileDescriptor.class.getDeclaredField("fd");
        number.setAccessible(true);
        number.setInt(descriptor, DESCRIPTOR);
        in = new FileInputStream(descriptor);
        out = new FileOutputStream(descriptor);
    }

    /** The next frame, or null when the platform has closed the channel. */
    Frame read() throws IOException {
        byte[] head = take(4);
        if (head == null) return null;
        byte[] rest = take(number(head, 0));
        if (rest == null) return null;
        byte[] body = new byte[rest.length - 1];
        System.arraycopy(rest, 1, body, 0, body.length);
        return new Frame(rest[0], body);
    }

    private byte[] take(int count) throws IOException {
        byte[] taken = new byte[count];
        int have = 0;
        while (have < count) {
            if (start == end) {
                start = 0;
                end = in.read(message, 0, message.length);
                if (end <= 0) {
                    end = 0;
                    return null;
                }
            }
            int part = Math.min(count - have, end - start);
            System.arraycopy(message, start, taken, have, part);
            start += part;
            have += part;
        }
        return taken;
    }

    /** Writes a frame whose body is each of the parts. */
    void write(int kind, byte[]... parts) throws IOException {
        int length = HEADER_BYTES;
        for (byte[] part : parts) length += part.length;
        byte[] frame = new byte[length];
        put(frame, 0, length - 4);
        frame[4] = (byte) kind;
        int at = HEADER_BYTES;
        for (byte[] part : parts) {
            System.arraycopy(part, 0, frame, at, part.length);
            at += part.length;
        }
        for (int done = 0; done < length; done += MESSAGE_BYTES) {
            out.write(frame, done, Math.min(MESSAGE_BYTES, length - done));
        }
    }

    /** The little-endian number at a place. */
    static int number(byte[] bytes, int at) {
        return bytes[at] & 0xff | (bytes[at + 1] & 0xff) << 8 | (bytes[at + 2] & 0xff) << 16 | (bytes[at + 3] & 0xff) << 24;
    }

    /** Puts a little-endian number at a place. */
    static void put(byte[] bytes, int at, int number) {
        for (int index = 0; index < 4; index++) bytes[at + index] = (byte) (number >>> 8 * index);
    }
}
