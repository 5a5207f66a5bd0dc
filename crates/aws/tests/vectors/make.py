"""Signs requests with botocore and writes them as the fixture beside this file: python make.py botocore.json"""
import json, datetime, sys
from unittest import mock
from botocore.auth import SigV4Auth, SigV4QueryAuth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
import botocore.auth as A
AT=datetime.datetime(2026,1,2,3,4,5,tzinfo=datetime.timezone.utc)
import botocore.compat
cred=Credentials('AKIDEXAMPLE','wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY')
tok=Credentials('ASIAEXAMPLE','wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY','TOKEN/+=x')
out=[]
def add(name,cls,creds,method,url,headers,body,service,region='us-east-1',**kw):
    r=AWSRequest(method=method,url=url,headers=headers,data=body)
    with mock.patch.object(A,'get_current_datetime',return_value=AT.replace(tzinfo=None)) if hasattr(A,'get_current_datetime') else mock.patch('datetime.datetime') as m:
        cls(creds,service,region,**kw).add_auth(r)
    p=r.prepare()
    h={k.lower():(v if isinstance(v,str) else v.decode()) for k,v in p.headers.items()}
    h.setdefault('host',p.url.split('/')[2])
    h.pop('content-length',None)
    path='/'+p.url.split('/',3)[3] if p.url.count('/')>=3 else '/'
    out.append(dict(name=name,method=method,target=path,headers=h,body=(body or b'').decode(),service=service))
B='http://localhost:4566'
add('invoke with blank in name',SigV4Auth,cred,'POST',B+'/2015-03-31/functions/my%20fn/invocations?Qualifier=a%20b&B=2',{'content-type':'application/json'},b'{"k":1}','lambda')
add('session token',SigV4Auth,tok,'POST',B+'/',{'content-type':'application/x-amz-json-1.0','x-amz-target':'DynamoDB_20120810.ListTables'},b'{}','dynamodb')
add('arn in path',SigV4Auth,cred,'GET',B+'/2017-03-31/tags/arn%3Aaws%3Alambda%3Aus-east-1%3A000000000000%3Afunction%3Af',{},b'','lambda')
add('list in query',SigV4Auth,cred,'DELETE',B+'/2017-03-31/tags/x?tagKeys=b&tagKeys=a&tagKeys=a%2Fb&empty=',{},b'','lambda')
add('dots and slashes',SigV4Auth,cred,'GET',B+'/a/./b/../c//d/',{},b'','lambda')
add('blanks in headers',SigV4Auth,cred,'POST',B+'/',{'x-amz-meta':'  a   b  c ','content-type':'text/plain; charset=utf-8'},'é'.encode(),'sts')
add('unicode query',SigV4Auth,cred,'GET',B+'/?a=%E2%82%AC&A=~x-_.&b=%2B',{},b'','logs','eu-west-1')
add('presigned',SigV4QueryAuth,tok,'GET',B+'/?Action=GetCallerIdentity&Version=2011-06-15',{},b'','sts',expires=60)
add('presigned s3',S3SigV4QueryAuth,cred,'GET',B+'/bkt/a%20b%2Bc.txt',{},b'','s3',expires=600)
json.dump(out,open(sys.argv[1],'w'),indent=1)
