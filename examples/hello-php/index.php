<?php

// dunlin deploy examples/hello-php: a function, in Bref's shape
return function ($event, $context) {
    $name = ($event['queryStringParameters'] ?? $event)['name'] ?? 'world';
    echo "greeting $name\n";
    return ['message' => "Hello, $name!"];
};
