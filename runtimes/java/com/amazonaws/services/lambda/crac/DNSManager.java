package com.amazonaws.services.lambda.crac;

/**
 * Stands before the client's own class of this name, which forgets resolved names by native code before a snapshot is
 * taken. Here none is taken: there is nothing to forget.
 */
final class DNSManager {
    private DNSManager() {}

    static void clearCache() {}
}
