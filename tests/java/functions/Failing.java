package functions;

/** It cannot be made. */
public class Failing {
    private static final int NUMBER = Integer.parseInt("none");

    public int handle(Object event) {
        return NUMBER;
    }
}
