<?php // A page: it is served, as by any web server. ?>
<h1>Hello, <?= htmlspecialchars($_GET['name'] ?? 'world') ?>!</h1>
