package dunlin.guest;

import java.io.IOException;
import java.lang.reflect.Field;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import sun.misc.Unsafe;

/**
 * The variables of this process as native code and programs that it starts see them: the array at the bottom of its
 * first thread's stack. Java has no way to change it but to write it. There is room for as many as the process was
 * started with; the platform starts one that is booted ahead with some more, which are its own and go (Variables).
 *
 * Source: the layout of a new process's stack (System V ABI, AMD64 and AArch64 alike), and proc_pid_stat(5).
 */
final class Native {
    /** The field of /proc/self/stat that tells the bottom of the stack, counted after the program's name. */
    private static final int START_STACK = 28 - 3;
    private static final long ARGUMENTS_MAX = 4_096;
    private static final int WORD = 8;

    private final Unsafe unsafe;
    private final long array;
    private final int room;

    private Native(Unsafe unsafe, long array, int room) {
        this.unsafe = unsafe;
        this.array = array;
        this.room = room;
    }

    /** Finds the array; null where it is not as it should be. */
    static Native find() throws ReflectiveOperationException, IOException {
        Field field = Unsafe.class.getDeclaredField("theUnsafe");
        field.setAccessible(true);
        Unsafe unsafe = (Unsafe) field.get(null);
        String stat = Files.readString(Path.of("/proc/self/stat"));
        String[] fields = stat.substring(stat.lastIndexOf(')') + 2).split(" ");
        long bottom = Long.parseUnsignedLong(fields[START_STACK]);
        if (bottom == 0 || unsafe.addressSize() != WORD) return null;
        long arguments = unsafe.getLong(bottom);
        if (arguments < 1 || arguments > ARGUMENTS_MAX) return null;
        long array = bottom + WORD * (arguments + 2);
        // The end of the arguments, and after it as many variables as Java has seen.
        if (unsafe.getLong(array - WORD) != 0) return null;
        int room = 0;
        while (unsafe.getLong(array + (long) WORD * room) != 0) room++;
        return room == System.getenv().size() ? new Native(unsafe, array, room) : null;
    }

    /** Has the array be these variables; false where they have no room. */
    boolean set(Map<String, String> variables) {
        if (variables.size() > room) return false;
        int index = 0;
        for (Map.Entry<String, String> variable : variables.entrySet()) {
            byte[] text = (variable.getKey() + "=" + variable.getValue()).getBytes(StandardCharsets.UTF_8);
            // Never given back: whoever was told of it may keep it.
            long place = unsafe.allocateMemory(text.length + 1);
            for (int at = 0; at < text.length; at++) unsafe.putByte(place + at, text[at]);
            unsafe.putByte(place + text.length, (byte) 0);
            unsafe.putLong(array + (long) WORD * index++, place);
        }
        unsafe.putLong(array + (long) WORD * index, 0);
        return true;
    }
}
