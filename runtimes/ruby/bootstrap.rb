# frozen_string_literal: true

# Starts the managed Ruby guest of `dunlin_guest.rb`, which lies beside this file.

require_relative 'dunlin_guest'

exit(Dunlin::Guest.new.run)
