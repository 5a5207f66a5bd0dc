//! The function of a rehearsal: see `rehearse` in `bootstrap.cjs`.

'use strict';

exports.handler = async (event) => ({ statusCode: 200, body: JSON.stringify(event) });
