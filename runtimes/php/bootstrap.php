<?php

// Starts the managed PHP guest of `dunlin_guest.php`, which lies beside this file.

declare(strict_types=1);

require __DIR__ . '/dunlin_guest.php';

exit((new Dunlin\Guest())->run());
