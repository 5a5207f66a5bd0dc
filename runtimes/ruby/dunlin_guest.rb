# frozen_string_literal: true

# The managed Ruby guest: it loads one handler and answers invocations, one at a time.
#
# It speaks the frames of `crates/compute/src/guest_protocol.rs` on descriptor 3, by blocking reads and writes. Runs on Ruby
# 2.7 and later, with what comes with Ruby only. What functions see (the context, names and texts of errors, lines of the
# log) is as AWS's own runtime client for Ruby has it.
#
# Invariants
#   1. Every INVOKE is answered by exactly one RESPONSE, ERROR or INIT_ERROR, or the process ends.
#   2. Nothing but frames is written to descriptor 3; nothing of the guest's own goes to the output, log lines apart.
#
# Start reading at `Guest#run`. The order is: channel, errors, logs, paths, context, handler, guest.

require 'json'
require 'logger'
require 'rbconfig'
require 'stringio'
require 'time'

# AWS's client has loaded these, so that functions do without asking for them. They cost a start too much.
Object.autoload(:Net, 'net/http') unless defined?(Net)
Object.autoload(:URI, 'uri') unless defined?(URI)

# What a handler gets as `context:`.
class LambdaContext
  attr_reader :aws_request_id, :invoked_function_arn, :log_group_name, :log_stream_name, :function_name,
              :memory_limit_in_mb, :function_version, :identity, :tenant_id, :client_context, :deadline_ms

  def initialize(meta)
    @aws_request_id = meta['requestId']
    @deadline_ms = meta['deadlineMs']
    @invoked_function_arn = meta['functionArn']
    @tenant_id = meta['tenantId']
    @identity = LambdaContext.parsed(meta['identity'])
    @client_context = LambdaContext.parsed(meta['clientContext'])
    @log_group_name = ENV['AWS_LAMBDA_LOG_GROUP_NAME']
    @log_stream_name = ENV['AWS_LAMBDA_LOG_STREAM_NAME']
    @function_name = ENV['AWS_LAMBDA_FUNCTION_NAME']
    @memory_limit_in_mb = ENV['AWS_LAMBDA_FUNCTION_MEMORY_SIZE']
    @function_version = ENV['AWS_LAMBDA_FUNCTION_VERSION']
  end

  # The platform may hand JSON text on as it came, or the value.
  def self.parsed(value)
    value.is_a?(String) && !value.empty? ? JSON.parse(value) : value
  end

  # Milliseconds until the invocation is ended, never below 0.
  def get_remaining_time_in_millis
    [@deadline_ms - Process.clock_gettime(Process::CLOCK_REALTIME, :millisecond), 0].max
  end
end

# What a handler string means. A method without a class is one of every object, this one among them, so that an error
# about it names this class as on Lambda.
class LambdaHandler
  attr_reader :file

  def initialize(text)
    parts = text.split('.')
    @file, @method = parts if parts.size == 2
    @file, @class, @method = parts if parts.size == 3
    return if @method

    raise ArgumentError, "Invalid handler #{parts}, must be of form FILENAME.METHOD or FILENAME.CLASS.METHOD where " \
                         'FILENAME corresponds with an existing Ruby source file FILENAME.rb, CLASS is an optional ' \
                         'module/class namespace and METHOD is a callable method. If using CLASS, METHOD must be a ' \
                         'class-level method.'
  end

  # The handler's result.
  def call(event, context)
    return Kernel.const_get(@class).send(@method, event: event, context: context) if @class

    __send__(@method, event: event, context: context)
  end
end

# Everything of the guest's own that no function asks for.
module Dunlin
  CHANNEL = 3
  LOAD = 1
  INVOKE = 2
  BOOTED = 15
  READY = 16
  INIT_ERROR = 17
  RESPONSE = 18
  ERROR = 19
  # The channel keeps the bounds of writes: none is longer, and every read has room for one.
  MESSAGE_BYTES = 32 * 1024
  READ_BYTES = 64 * 1024
  # 6 MiB, and what Lambda allows beyond.
  PAYLOAD_BYTES_MAX = 6_291_556
  # Before an event of the log: ends the line that was begun, if there is one (`crates/compute/src/output.rs`).
  RECORD_MARK = "\x1e\n"
  HERE = File.realpath(__dir__)
  # Most lines of a stack trace.
  TRACE_LINES = 100
  # How AWS's client ends after an error that it does not go on from, and after a failed init.
  EXIT_CRITICAL = 255
  EXIT_INIT = 252

  # Frames on descriptor 3.
  class Channel
    def initialize
      @io = IO.for_fd(CHANNEL, File::RDWR | File::BINARY, autoclose: false)
      @io.close_on_exec = true
      @rest = String.new(encoding: Encoding::BINARY)
    end

    # The next frame's kind and body, or nothing when the platform has closed the channel.
    def read
      return nil unless fill(4)

      size = 4 + @rest.unpack1('L<')
      return nil unless fill(size)

      frame = @rest.byteslice(0, size)
      @rest = @rest.byteslice(size, @rest.bytesize - size)
      [frame.getbyte(4), frame.byteslice(5, size - 5)]
    end

    # Writes one frame, in messages of at most `MESSAGE_BYTES`.
    def write(kind, *parts)
      body = parts.map(&:b).join
      frame = [body.bytesize + 1, kind].pack('L<C') << body
      at = 0
      while at < frame.bytesize
        begin
          at += @io.syswrite(frame.byteslice(at, MESSAGE_BYTES))
        rescue IO::WaitWritable
          IO.select(nil, [@io])
        end
      end
    end

    private

    def fill(count)
      while @rest.bytesize < count
        begin
          @rest << @io.sysread(READ_BYTES)
        rescue IO::WaitReadable
          IO.select([@io])
        rescue EOFError, Errno::ECONNRESET
          return false
        end
      end
      true
    end
  end

  # Error documents, as callers receive them.
  module Errors
    module_function

    # Of anything that was raised. `kind` says whose error it is: `Function`, `Init` or `Runtime`.
    def document(error, kind)
      {
        'errorMessage' => text(error.message),
        'errorType' => "#{kind}<#{error.class}>",
        'stackTrace' => trace(error)
      }
    end

    # An answer that is longer than a payload may be: it is the platform that refuses it, for every runtime in the same words.
    def too_large
      words = "Response payload size exceeded maximum allowed payload size (#{PAYLOAD_BYTES_MAX} bytes)."
      { 'errorType' => 'Function.ResponseSizeTooLarge', 'errorMessage' => words }
    end

    # The document's JSON, never longer than a payload may be.
    def encode(document)
      json = JSON.generate(document)
      json.bytesize > PAYLOAD_BYTES_MAX ? JSON.generate(too_large) : json
    end

    # The lines above the guest's own.
    def trace(error)
      lines = (error.backtrace || []).first(TRACE_LINES).map { |line| text(line) }
      lines.take_while { |line| !line.start_with?(HERE, '/var/runtime/') }
    end

    def text(value)
      value = value.to_s
      value = value.dup.force_encoding(Encoding::UTF_8) if value.encoding == Encoding::BINARY
      value.encode(Encoding::UTF_8, invalid: :replace, undef: :replace).scrub
    end
  end

  # Log lines in Lambda's formats.
  class Logs
    attr_reader :level
    attr_accessor :request_id, :tenant_id

    def initialize
      @json = ENV['AWS_LAMBDA_LOG_FORMAT'].to_s.casecmp?('JSON')
      level = ENV['AWS_LAMBDA_LOG_LEVEL'].to_s.upcase
      level = 'DEBUG' if level == 'TRACE'
      @level = level if %w[DEBUG INFO WARN ERROR FATAL].include?(level)
    end

    def json?
      @json
    end

    # One event of the log, however many lines it has; only lines where a function reads them itself.
    def self.event(device, text)
      return text unless device.equal?(STDOUT) || device.equal?(STDERR)

      "#{RECORD_MARK}#{text.chomp.gsub(/\r?\n/, "\r")}\n"
    end

    # A failed init or invocation.
    def failure(title, document)
      text = @json ? JSON.generate(record('ERROR', title).merge(document)) : "#{title}\n#{JSON.pretty_generate(document)}"
      $stdout.write(Logs.event($stdout, "#{text}\n"))
      $stdout.flush
    rescue IOError
      # The function has closed its output.
    end

    # The line of a logger.
    def line(severity, time, program, message)
      return JSON.generate(record(severity, Errors.text(message), time, program)) << "\n" if @json

      stamp = time.strftime('%Y-%m-%dT%H:%M:%S.%6N')
      format("%s, [%s #%d] %5s %s -- %s: %s\n", severity[0], stamp, $$, severity, request_id, program, Errors.text(message))
    end

    private

    def record(severity, message, time = Time.now, program = nil)
      all = { 'timestamp' => time.getutc.strftime('%Y-%m-%dT%H:%M:%S.%LZ'), 'level' => severity, 'message' => message }
      all['logger'] = program.to_s if program
      all['requestId'] = request_id if request_id
      all['tenantId'] = tenant_id if tenant_id
      all
    end
  end

  # Gives loggers of the standard output Lambda's format, unless they have one of their own.
  module LoggerFormat
    class << self
      attr_accessor :logs
    end

    def initialize(device = nil, *rest, **options)
      super
      logs = LoggerFormat.logs
      return unless logs && (device.equal?($stdout) || device.equal?($stderr))

      self.level = logs.level if logs.level && !options.key?(:level)
      return if options[:formatter]

      @dunlin_plain = Logger::Formatter.new
      self.formatter = proc do |severity, time, program, message|
        # The words for whatever was logged are Ruby's own.
        Logs.event(device, logs.line(severity, time, program, @dunlin_plain.send(:msg2str, message)))
      end
    end
  end

  # Where a function's own code and its gems are found.
  module Paths
    module_function

    def use(root)
      listed = [root, *ENV['RUBYLIB'].to_s.split(':'), '/opt/ruby/lib'].reject(&:empty?)
      $LOAD_PATH.replace((listed + $LOAD_PATH).uniq)
      return unless defined?(Gem)

      ENV['GEM_PATH'] = gems.join(':')
      Gem.paths = ENV.to_h
    end

    # Gems that were installed for the version asked for are looked for, and those for the version that runs; then the
    # platform's own, and those that came with Ruby.
    def gems
      abi = RbConfig::CONFIG['ruby_version']
      own = ENV['GEM_PATH'].to_s.split(':').reject(&:empty?)
      same = own.map { |path| path.sub(%r{/\d+\.\d+\.\d+\z}, "/#{abi}") }
      pack = "/var/runtime/ruby#{abi[/\A\d+\.\d+/]}/gems"
      (own + same + [pack, File.join(RbConfig::CONFIG['rubylibprefix'], 'gems', abi)]).uniq
    end
  end

  # The life of the process.
  class Guest
    def run
      @channel = Channel.new
      rehearse if ENV.delete('_DUNLIN_AHEAD')
      @channel.write(BOOTED)
      kind, body = @channel.read
      return 0 if kind.nil?
      raise "unexpected frame of kind #{kind}" unless kind == LOAD

      code = load_handler(JSON.parse(body.force_encoding(Encoding::UTF_8)))
      code || serve
    end

    private

    # Runs what every load and first call runs, so that Ruby has compiled it before anybody waits.
    def rehearse
      document = Errors.document(RuntimeError.new('none'), 'Function')
      JSON.parse(Errors.encode(document))
      LambdaContext.new('deadlineMs' => 0).get_remaining_time_in_millis
      Logs.new.line('INFO', Time.now, nil, 'none')
      Gem.paths.path if defined?(Gem)
      Process.respond_to?(:warmup) ? Process.warmup : GC.start
    end

    # Nothing, or the code to exit with.
    def load_handler(order)
      name = order['handler']
      ENV.update(order['environment'])
      # What a wrapper has said last.
      name = ENV.fetch('_HANDLER', name) if order['wrapped']
      Dir.chdir(order['root'])
      $stdout.sync = true
      @logs = LoggerFormat.logs = Logs.new
      Logger.prepend(LoggerFormat)
      Paths.use(order['root'])
      @handler = LambdaHandler.new(name)
      require @handler.file
      @channel.write(READY)
      nil
    rescue Exception => e # rubocop:disable Lint/RescueException
      document = Errors.document(e, 'Init')
      @logs&.failure("Init error when loading handler #{name}", document)
      @channel.write(INIT_ERROR, Errors.encode(document))
      EXIT_INIT
    end

    # Answers invocations until the platform closes the channel or an error ends it. The code to exit with.
    def serve
      while (frame = @channel.read)
        kind, body = frame
        raise "unexpected frame of kind #{kind}" unless kind == INVOKE

        size = 4 + body.unpack1('L<')
        meta = JSON.parse(body.byteslice(4, size - 4).force_encoding(Encoding::UTF_8))
        begin_invocation(meta)
        code = invoke(meta, body.byteslice(size, body.bytesize - size).force_encoding(Encoding::UTF_8))
        return code if code
      end
      0
    end

    def begin_invocation(meta)
      @logs.request_id = meta['requestId']
      @logs.tenant_id = meta['tenantId']
      # Formatters of functions know it by this name.
      $_global_aws_request_id = meta['requestId']
      ENV['_X_AMZN_TRACE_ID'] = meta['traceId']
    end

    # Runs one invocation and sends its answer. Nothing, or the code to exit with.
    def invoke(meta, text)
      began = Process.clock_gettime(Process::CLOCK_MONOTONIC, :microsecond)
      begin
        event = text.empty? ? {} : JSON.parse(text)
        context = LambdaContext.new(meta)
      rescue StandardError => e
        return fail_with('Error in the event', Errors.document(e, 'Runtime'))
      end
      type, data = encoded(@handler.call(event, context))
      return fail_with('Error in the answer', Errors.too_large) if data.bytesize > PAYLOAD_BYTES_MAX

      took = [Process.clock_gettime(Process::CLOCK_MONOTONIC, :microsecond) - began, 0xFFFFFFFF].min
      flush
      @channel.write(RESPONSE, [took, type.bytesize].pack('L<L<'), type, data)
      nil
    rescue NameError => e
      end_with(e)
    rescue StandardError => e
      fail_with('Error raised from handler method', Errors.document(e, 'Function'))
    rescue Exception => e # rubocop:disable Lint/RescueException
      end_with(e)
    end

    # The answer's content type and bytes: what a stream holds goes as it is, anything else as JSON.
    def encoded(result)
      case result
      when StringIO, IO then ['application/unknown', result.read.to_s]
      else ['application/json', result.to_json]
      end
    end

    def fail_with(title, document)
      @logs.failure(title, document)
      flush
      @channel.write(ERROR, Errors.encode(document))
      nil
    end

    # An error after which AWS's client does not go on either: a name that is not there, an exit, one that is no
    # StandardError. Not ERROR: no other call may come while the process ends.
    def end_with(error)
      document = Errors.document(error, 'Function')
      @logs.failure('Critical exception from handler', document)
      flush
      @channel.write(INIT_ERROR, Errors.encode(document))
      EXIT_CRITICAL
    end

    # What was printed is out before the answer is.
    def flush
      $stdout.flush
      $stderr.flush
    rescue IOError, SystemCallError
      # The function has closed or replaced it.
    end
  end
end
