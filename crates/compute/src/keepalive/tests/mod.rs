//! Policies of keeping environments, compared over generated days. Start reading at `replay`.

mod replay;
mod trace;
