package dunlin.guest;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;

/**
 * The working folder of a process that was booted before its function. Java cannot change it: the platform does, a moment
 * after the code was mounted.
 */
final class Folder {
    private static final Path OWN = Path.of("/proc/self/cwd");
    private static final int PATIENCE_MS = 200;

    private Folder() {}

    /** Waits until this process is there, and says so to what looks files up by their names. */
    static void enter(String root) throws IOException, InterruptedException {
        Path wanted = Path.of(root);
        for (int waited = 0; waited < PATIENCE_MS && !Files.isSameFile(OWN, wanted); waited++) Thread.sleep(1);
        // The client takes the package from there.
        System.setProperty("user.dir", root);
    }
}
