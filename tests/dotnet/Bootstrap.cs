// A .NET function as a program of its own: the loop that AWS's library for custom runtimes runs (Amazon.Lambda.RuntimeSupport),
// with the facts of the machine in its answers. Built without an SDK, so it uses the language of C# 6.

using System;
using System.IO;
using System.Net.Http;
using System.Text;
using System.Text.Json;
using System.Threading.Tasks;

public static class Bootstrap
{
    static readonly HttpClient Client = new HttpClient { Timeout = System.Threading.Timeout.InfiniteTimeSpan };
    static readonly string Api = "http://" + Environment.GetEnvironmentVariable("AWS_LAMBDA_RUNTIME_API") + "/2018-06-01/runtime/";
    static int calls;

    public static void Main()
    {
        if (Environment.GetEnvironmentVariable("_HANDLER") == "broken")
        {
            Post("init/error", Failure(new InvalidOperationException("no such handler"))).Wait();
            Environment.Exit(1);
        }
        Loop().Wait();
    }

    static async Task Loop()
    {
        while (true)
        {
            HttpResponseMessage next = await Client.GetAsync(Api + "invocation/next");
            string id = Header(next, "Lambda-Runtime-Aws-Request-Id");
            try
            {
                string answer = Handle(await next.Content.ReadAsStringAsync(), id, Header(next, "Lambda-Runtime-Invoked-Function-Arn"));
                await Post("invocation/" + id + "/response", answer);
            }
            catch (Exception error)
            {
                Console.Error.WriteLine("failed " + id);
                await Post("invocation/" + id + "/error", Failure(error));
            }
        }
    }

    static string Handle(string payload, string id, string arn)
    {
        JsonElement input = JsonDocument.Parse(payload).RootElement;
        JsonElement what;
        string act = input.ValueKind == JsonValueKind.Object && input.TryGetProperty("do", out what) ? what.GetString() : "";
        if (act == "throw") throw new ArgumentException("bad \u00fc");
        if (act == "exit") Environment.Exit(3);
        if (act == "sleep") System.Threading.Thread.Sleep(60000);
        if (act == "fill") { var all = new System.Collections.Generic.List<byte[]>(); while (true) { var one = new byte[1 << 22]; Array.Fill(one, (byte)1); all.Add(one); } }
        Console.WriteLine("call " + ++calls);
        var stream = new MemoryStream();
        using (var json = new Utf8JsonWriter(stream))
        {
            json.WriteStartObject();
            json.WritePropertyName("event");
            input.WriteTo(json);
            json.WriteString("id", id);
            json.WriteString("arn", arn);
            json.WriteString("version", Environment.Version.ToString());
            json.WriteString("name", Environment.GetEnvironmentVariable("AWS_LAMBDA_FUNCTION_NAME"));
            json.WriteNumber("calls", calls);
            json.WriteEndObject();
        }
        return Encoding.UTF8.GetString(stream.ToArray());
    }

    static string Failure(Exception error)
    {
        var stream = new MemoryStream();
        using (var json = new Utf8JsonWriter(stream))
        {
            json.WriteStartObject();
            json.WriteString("errorType", error.GetType().Name);
            json.WriteString("errorMessage", error.Message);
            json.WriteEndObject();
        }
        return Encoding.UTF8.GetString(stream.ToArray());
    }

    static string Header(HttpResponseMessage message, string name)
    {
        return string.Join(",", message.Headers.GetValues(name));
    }

    static async Task Post(string path, string body)
    {
        HttpResponseMessage said = await Client.PostAsync(Api + path, new StringContent(body, Encoding.UTF8, "application/json"));
        said.EnsureSuccessStatusCode();
    }
}
